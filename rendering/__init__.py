"""The bytes of documents: a course in, a file of any export out, and sources in, sections out.

Touch this room when a document should look different or a new format is wanted; everything here is a pure function.
"""
