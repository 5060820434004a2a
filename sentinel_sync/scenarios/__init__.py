"""Recorded scenarios: found, made small, and sent part by part while the driver consents.

The door is `scenario_uploader.ScenarioUploader`.
It never changes a recorder's file, and never sends one without a consent that stands at that moment.
"""
