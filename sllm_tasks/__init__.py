"""Serverless LLM inference as a Celery task system."""

__version__ = "0.1.0"
