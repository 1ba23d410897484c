"""The page of an audit: one HTML file that opens offline."""

from memdiff.audit.page.composition import compose, write_page

__all__ = ["compose", "write_page"]
