"""Driving models: releases checked, fetched, verified, switched to atomically, and taken back when bad.

The door is `model_downloader.ModelDownloader`.
It never lets the runtime open bytes that no trusted key signed.
"""
