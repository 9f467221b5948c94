"""Fails on import, as a plugin does whose native library is missing."""

raise ImportError("libacme.so.3: cannot open shared object file: No such file or directory")
