"""Inference engines: decode tokens of many jobs on one loaded model."""
