"""Which images answer this query? Reads libraries, never writes them."""
