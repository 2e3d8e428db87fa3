"""Configuration: composition, schema, strict decoding and cross-field rules. Imports no torch and nothing else of stpipe."""
