"""What a job's processes wrote: a file in the store, or the log groups of a stage's functions."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from coordinator.errors import KeyMissingError, StorageError
from coordinator.jobs import JobStore
from overcast.place import CloudPlace, Place, aws

_AFTER: Final = 5.0  # seconds after the end of a job in which its functions may still write
_SIZES: Final = ("worker", "worker-large", "worker-xlarge")


def lines(place: Place, job: str, *, workers: bool = False) -> Iterator[str]:
    """Lines in order of time; on a stage, of all that the driver (or the workers) wrote while the job lived.

    Raises StorageError where the logs may not be read.
    """
    if not isinstance(place, CloudPlace):
        try:
            text = place.storage.get(f"jobs/{job}/log.txt").decode("utf-8", "replace")
        except KeyMissingError:  # it ran in the foreground
            return
        yield from text.splitlines()
        return
    store = JobStore(place.storage)
    status = store.status(job)
    end = (status.ended or time.time()) + _AFTER
    for name in _SIZES if workers else ("driver",):
        yield from _group(f"/aws/lambda/overcast-{place.stage}-{name}", store.spec(job).created, end)


def _group(group: str, start: float, end: float) -> Iterator[str]:
    client = aws("logs")
    from botocore.exceptions import BotoCoreError, ClientError

    from coordinator.cloud.failures import explain

    asked = {"logGroupName": group, "startTime": int(1000 * start), "endTime": int(1000 * end)}
    try:
        while True:
            page = client.filter_log_events(**asked)
            for event in page["events"]:
                at = time.strftime("%H:%M:%S", time.localtime(event["timestamp"] / 1000))
                yield f"{at} {event['message'].rstrip()}"
            if not page.get("nextToken"):
                return
            asked["nextToken"] = page["nextToken"]
    except ClientError as error:
        if error.response["Error"].get("Code") == "ResourceNotFoundException":  # the function has never run
            return
        raise StorageError(explain(error, group)) from None
    except BotoCoreError as error:
        raise StorageError(explain(error, group)) from None
