"""The toolkit of everything compiled: how it is compiled and kept, vectors, moments, products, threads.

Whatever stands in this folder may end up in the code of any compiled function: an edit here compiles all of
them again.
"""
