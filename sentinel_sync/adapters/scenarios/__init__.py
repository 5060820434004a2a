"""Recordings on disk and on their way: read, checked, compressed, sent part by part."""
