"""Data sets as row blocks in storage: the block format, the manifest, and the readers that make them."""
