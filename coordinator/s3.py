"""Storage in an S3 bucket: the promises of `coordinator.storage`, kept by conditional requests.

Creation is a PUT with If-None-Match, a swap one with If-Match; the version is the ETag. Large objects are read in
ranges and written in parts, several at once. Requests are sent again when the service has trouble
(`coordinator.cloud.failures`). A conditional request that is refused on its second sending may have succeeded on its
first: then the object is read, and counts as ours if it holds what we wrote.

Without the right to list a bucket, S3 answers 403 for an object that is not there: `blind` storages take that for
"not there".
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from coordinator import arrays as codec
from coordinator.arrays import NamedArrays
from coordinator.cloud.failures import ALLOWED, explain, retried
from coordinator.errors import ConflictError, InputError, KeyMissingError, StorageError, one_line
from coordinator.storage import check_key

PART: Final = 8 << 20  # bytes of a range or part
THREADS: Final = 16


@dataclass
class Usage:
    """Requests and bytes since the storage was opened: `reads` are GET and HEAD, `writes` PUT, POST and LIST."""

    reads: int = 0
    writes: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, reads: int = 0, writes: int = 0, bytes_in: int = 0, bytes_out: int = 0) -> None:
        with self._lock:
            self.reads += reads
            self.writes += writes
            self.bytes_in += bytes_in
            self.bytes_out += bytes_out

    def since(self, before: Usage) -> Usage:
        """What was used after `before` was noted."""
        return Usage(
            self.reads - before.reads,
            self.writes - before.writes,
            self.bytes_in - before.bytes_in,
            self.bytes_out - before.bytes_out,
        )

    def now(self) -> Usage:
        """A note of the figures."""
        return self.since(Usage())


class S3Storage:
    """Objects of one bucket. May be shared by threads.

    Parameters
    ----------
    bucket : its name.
    client : boto3 S3 client; default: made from the environment, with this module's settings (`s3_client`).
    blind : see the module.
    reader : "obstore" reads large objects through that library (extra "fast"), about a third faster than boto3.
    pause : sleeps; an argument for tests.
    """

    def __init__(
        self,
        bucket: str,
        client: Any = None,
        *,
        blind: bool = False,
        reader: Literal["boto3", "obstore"] = "boto3",
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.bucket = bucket
        self.usage = Usage()
        self.client = s3_client() if client is None else client
        self._blind = blind
        self._absent: dict[int, Any] = {404: None, 403: None} if blind else {404: None}
        self._pause = pause
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._fast = _obstore(bucket, self.client) if reader == "obstore" else None

    def get(self, key: str) -> bytes:
        return self.read(key)[0]

    def read(self, key: str) -> tuple[bytes, str]:
        buffer, version = self._fetch(key)
        return buffer.tobytes(), version

    def put(self, key: str, data: bytes) -> None:
        check_key(key)
        if not self._write(key, data, {"IfNoneMatch": "*"}):
            raise ConflictError(f"object {key!r} exists already in {self}")

    def swap(self, key: str, data: bytes, version: str | None) -> str:
        check_key(key)
        found = self._write(key, data, {"IfNoneMatch": "*"} if version is None else {"IfMatch": version})
        if not found:
            raise ConflictError(f"object {key!r} was changed by another writer")
        return found

    def exists(self, key: str) -> bool:
        check_key(key)
        self.usage.add(reads=1)
        return self._call("HeadObject", key, self._absent, Bucket=self.bucket, Key=key) is not None

    def folders(self, prefix: str) -> list[str]:
        folder = check_key(prefix.rstrip("/")) + "/"
        pages = self._pages(folder, Delimiter="/")
        return [str(item["Prefix"])[len(folder) : -1] for page in pages for item in page["CommonPrefixes"]]

    def list(self, prefix: str) -> list[str]:
        folder = prefix.rstrip("/")
        if folder:
            check_key(folder)
        return [str(item["Key"]) for page in self._pages(f"{folder}/" if folder else "") for item in page["Contents"]]

    def delete(self, prefix: str) -> int:
        folder = check_key(prefix.rstrip("/"))
        found = [str(item["Key"]) for page in self._pages(folder) for item in page["Contents"]]
        keys = [key for key in found if key == folder or key.startswith(f"{folder}/")]
        self.remove(keys)
        return len(keys)

    def remove(self, keys: Iterable[str]) -> None:
        """Delete these keys, whether or not they are there."""
        todo = list(keys)
        for start in range(0, len(todo), 1000):
            part = [{"Key": key} for key in todo[start : start + 1000]]
            self.usage.add(writes=1)
            answer = self._call("DeleteObjects", "", {}, Bucket=self.bucket, Delete={"Objects": part, "Quiet": True})
            for error in answer.get("Errors", []):
                raise StorageError(f"cannot delete {error['Key']!r} from {self}: {error['Code']}; {ALLOWED}")

    def get_arrays(self, key: str) -> NamedArrays:
        if self._fast is not None:
            return codec.decode(self._fast_bytes(key), f"{self}/{key}")
        return codec.decode(self._fetch(key)[0].data, f"{self}/{key}")

    def put_arrays(self, key: str, arrays: NamedArrays) -> None:
        self.put(key, codec.encode(arrays))

    def __str__(self) -> str:
        return f"s3://{self.bucket}"

    # -- reading and writing ----------------------------------------------------------------------------------------

    def _fetch(self, key: str) -> tuple[NDArray[np.uint8], str]:
        """All bytes, starting on a 64-byte boundary as in a mapped file, and the ETag."""
        check_key(key)
        first = self._range(key, 0, None)
        if first is None:
            raise KeyMissingError(f"no object {key!r} in {self}")
        data, size, version = first
        buffer = _aligned(size)
        buffer[: len(data)] = np.frombuffer(data, dtype=np.uint8)

        def fill(start: int) -> None:
            found = self._range(key, start, version)
            if found is None:
                raise KeyMissingError(f"object {key!r} in {self} was deleted while it was read")
            buffer[start : start + len(found[0])] = np.frombuffer(found[0], dtype=np.uint8)

        if len(data) < size:
            list(self._threads.map(fill, range(len(data), size, PART)))
        return buffer, version

    def _range(self, key: str, start: int, version: str | None) -> tuple[bytes, int, str] | None:
        """PART bytes from `start`, the object's size and ETag; None when it is not there."""
        wanted: dict[str, Any] = {"Bucket": self.bucket, "Key": key, "Range": f"bytes={start}-{start + PART - 1}"}
        if version is not None:
            wanted["IfMatch"] = version

        def read() -> tuple[bytes, int, str] | None:
            answer = self.client.get_object(**wanted)
            data = answer["Body"].read()
            size = int(answer["ContentRange"].rsplit("/", 1)[1]) if "ContentRange" in answer else len(data)
            return data, size, answer["ETag"]

        self.usage.add(reads=1)
        found = self._retry(read, key, {**self._absent, 416: (b"", 0, "")})
        if found is None:
            return None
        if found[2] == "":  # an empty object has no range
            wanted.pop("Range")
            found = self._retry(read, key, self._absent)
        if found is not None:
            self.usage.add(bytes_in=len(found[0]))
        return found

    def _write(self, key: str, data: bytes, condition: dict[str, str]) -> str | None:
        """The new ETag, or None when the condition does not hold."""
        self.usage.add(writes=1, bytes_out=len(data))
        if len(data) > 2 * PART:
            return self._write_parts(key, data, condition)
        sent = 0

        def write() -> str:
            nonlocal sent
            sent += 1
            return str(self.client.put_object(Bucket=self.bucket, Key=key, Body=data, **condition)["ETag"])

        found: str | None = self._retry(write, key, {412: None, 404: None})
        return self._ours(key, data) if found is None and sent > 1 else found

    def _write_parts(self, key: str, data: bytes, condition: dict[str, str]) -> str | None:
        if "IfNoneMatch" in condition and self.exists(key):
            return None  # parts are not sent for nothing
        upload = self._call("CreateMultipartUpload", key, {}, Bucket=self.bucket, Key=key)["UploadId"]
        view = memoryview(data)
        part: dict[str, Any] = {"Bucket": self.bucket, "Key": key, "UploadId": upload}

        def send(number: int) -> dict[str, Any]:
            body = bytes(view[(number - 1) * PART : number * PART])
            self.usage.add(writes=1)
            sent = self._call("UploadPart", key, {}, PartNumber=number, Body=body, **part)
            return {"PartNumber": number, "ETag": sent["ETag"]}

        done = None
        sent = 0

        def complete() -> str:
            nonlocal sent
            sent += 1
            whole = {"Parts": parts}
            return str(self.client.complete_multipart_upload(MultipartUpload=whole, **part, **condition)["ETag"])

        try:
            parts = list(self._threads.map(send, range(1, -(-len(data) // PART) + 1)))
            self.usage.add(writes=2)
            done = self._retry(complete, key, {412: None, 404: None})
            if done is None and sent > 1:
                return self._ours(key, data)
        finally:
            if done is None:
                self._call("AbortMultipartUpload", key, {404: None}, **part)
        return done

    def _ours(self, key: str, data: bytes) -> str | None:
        """The ETag if the object holds `data`: an earlier sending has got through."""
        try:
            found, version = self.read(key)
        except KeyMissingError:
            return None
        return version if found == data else None

    def _pages(self, prefix: str, **options: Any) -> Iterable[dict[str, Any]]:
        token: dict[str, str] = {}
        while True:
            self.usage.add(writes=1)
            page = self._call("ListObjectsV2", prefix, {}, Bucket=self.bucket, Prefix=prefix, **options, **token)
            yield {"Contents": [], "CommonPrefixes": [], **page}
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    # -- requests ---------------------------------------------------------------------------------------------------

    def _call(self, operation: str, key: str, expected: dict[int, Any], **options: Any) -> Any:
        method = getattr(self.client, _snake(operation))
        return self._retry(lambda: method(**options), key, expected)

    def _retry(self, run: Callable[[], Any], key: str, expected: dict[int, Any]) -> Any:
        return retried(run, f"{self}/{key}" if key else str(self), expected, self._pause, self.bucket)

    @property
    def _threads(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(THREADS, "overcast-s3")
            return self._pool

    def _fast_bytes(self, key: str) -> memoryview:
        check_key(key)
        assert self._fast is not None
        self.usage.add(reads=1)
        try:
            data = memoryview(self._fast.get(key).bytes())
        except FileNotFoundError:
            raise KeyMissingError(f"no object {key!r} in {self}") from None
        except Exception as error:  # noqa: BLE001  that library's errors have no common base
            if self._blind and "403" in str(error):
                raise KeyMissingError(f"no object {key!r} in {self}") from None
            raise StorageError(f"cannot read {self}/{key}: {one_line(error, 200)}") from None
        self.usage.add(bytes_in=len(data))
        return data


def s3_client(session: Any = None) -> Any:
    """A boto3 client that leaves retries to this module and keeps a connection for every thread."""
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError:
        raise InputError("storage in S3 needs boto3: pip install 'overcast[aws]'") from None
    config = Config(
        retries={"mode": "standard", "total_max_attempts": 1},
        max_pool_connections=4 * THREADS,
        response_checksum_validation="when_required",
        tcp_keepalive=True,
        connect_timeout=5,
        read_timeout=60,
    )
    try:
        return (session or boto3.session.Session()).client("s3", config=config)
    except BotoCoreError as error:
        raise StorageError(explain(error, "S3")) from None


def _aligned(size: int) -> NDArray[np.uint8]:
    whole = np.empty(size + codec.ALIGN, dtype=np.uint8)
    start = -whole.ctypes.data % codec.ALIGN
    return whole[start : start + size]


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")


def _obstore(bucket: str, client: Any) -> Any:
    """A reader with the endpoint and credentials of the client."""
    try:
        from obstore.store import S3Store
    except ImportError:
        raise InputError("reader 'obstore' needs that library: pip install 'overcast[fast]'") from None
    endpoint = str(client.meta.endpoint_url)

    def credentials() -> Any:
        found = client._request_signer._credentials.get_frozen_credentials()  # noqa: SLF001  no public way to them
        out = {"access_key_id": found.access_key, "secret_access_key": found.secret_key, "expires_at": None}
        return out | ({"token": found.token} if found.token else {})

    return S3Store(
        bucket,
        region=client.meta.region_name,
        endpoint=endpoint,
        virtual_hosted_style_request=False,
        client_options={"allow_http": endpoint.startswith("http://")},
        credential_provider=credentials,
    )


__all__: Sequence[str] = ("S3Storage", "Usage", "s3_client")
