"""Past one machine: the same library, embedded by Ray and served by Milvus.

Nothing here coordinates machines: Ray and Milvus do, and both are optional (`imago-search[cluster]`). What is
ours is that the answers stay the same: `rows` is an image as a row of a collection, `expressions` the filters in
Milvus's language, `publishing` fills a collection from a library, `milvus_reader` reads one as `LibraryReader`
reads a folder, `embedding` runs the towers on Ray's machines.
"""
