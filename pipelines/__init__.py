"""The work of wamloom: lines (ingest, encode, build, verify), families, ideas and plumbing."""
