"""The documentation as a site: `scripts/docs` builds it."""

project = "sllm-tasks"
author = "the sllm-tasks authors"
extensions = ["myst_parser"]
html_theme = "furo"
html_title = "sllm-tasks"
exclude_patterns = ["results"]
myst_heading_anchors = 3
# Links out of the documentation, to sources and sample files: tests/unit/test_documents.py follows them. Diagrams in
# mermaid are for readers on a forge.
suppress_warnings = ["myst.xref_missing", "misc.highlighting_failure"]
