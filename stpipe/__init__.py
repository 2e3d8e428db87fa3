"""stpipe trains embedding models, sparse encoders and rerankers from YAML."""

__version__ = "0.1.0"
