"""What is in these folders, and is the library up to date? Scan, decode, pipeline, catalog, vector index."""
