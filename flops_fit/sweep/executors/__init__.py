"""Executors: what runs tasks."""
