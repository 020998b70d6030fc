"""Lambda's entry point of the driver: runs a job as far as its time limit allows."""

from coordinator.cloud.driver import handler

__all__ = ["handler"]
