"""Lambda's entry point of workers: one task a call."""

from coordinator.cloud.worker import handler

__all__ = ["handler"]
