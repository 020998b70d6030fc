"""Lambda's entry point of the interface: what clients ask by HTTP."""

from coordinator.cloud.api import handler

__all__ = ["handler"]
