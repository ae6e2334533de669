"""Scripts that run in the engines' own environments: they import the standard library, numpy and their engine only.

A script's folder is on its ``sys.path``, so none is named like a module that it, or its engine, imports.
"""
