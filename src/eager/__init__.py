"""EAGer: entropy-aware generation (arXiv 2510.11170)."""

__version__ = "0.1.0"
