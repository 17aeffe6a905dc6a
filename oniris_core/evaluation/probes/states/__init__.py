"""One file for each environment whose frames can be read, the reader they make, and the registry.

Ask `registry.reader_for` an environment; None where its frames cannot be read.
"""
