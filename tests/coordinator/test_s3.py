"""What storage in S3 promises beyond the other stores."""

from functools import partial

import numpy as np
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError, ReadTimeoutError

from coordinator.cloud.failures import ATTEMPTS, explain
from coordinator.errors import ConflictError, KeyMissingError, StorageError
from coordinator.jobs import JobStore
from coordinator.s3 import PART, S3Storage, s3_client


def refused(code, status, message="no"):
    answer = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, "Test")


class Faulty:
    """A client whose calls meet the faults of a table, {method: [error, ...]}; `after` errors come after the deed."""

    def __init__(self, client, faults, after=False):
        self.client, self.faults, self.after, self.calls = client, faults, after, []

    def __getattr__(self, name):
        def call(**options):
            self.calls.append(name)
            error = self.faults[name].pop(0) if self.faults.get(name) else None
            if error is None or self.after:
                answer = getattr(self.client, name)(**options)
            if error is not None:
                raise error
            return answer

        return call


def faulty(s3, faults, **options):
    pauses = []
    client = Faulty(s3.client, faults, options.pop("after", False))
    return S3Storage(s3.bucket, client, pause=pauses.append, **options), client, pauses


BUSY = [refused("SlowDown", 503), refused("InternalError", 500), ReadTimeoutError(endpoint_url="x")]


def test_busy_services_are_asked_again_after_growing_random_pauses(s3):
    storage, client, pauses = faulty(s3, {"put_object": list(BUSY), "get_object": list(BUSY)})
    storage.put("a", b"1")
    assert storage.get("a") == b"1"
    assert client.calls.count("put_object") == client.calls.count("get_object") == 4
    assert len(pauses) == 6
    assert all(0 <= p < 1 for p in pauses)
    assert len(set(pauses)) == 6


def test_a_service_that_stays_busy_is_given_up_in_one_line(s3):
    storage, client, pauses = faulty(s3, {"put_object": [refused("SlowDown", 503, "reduce your rate")] * 20})
    with pytest.raises(StorageError, match=rf"^cannot use s3://{s3.bucket}/a: SlowDown: reduce your rate$"):
        storage.put("a", b"1")
    assert len(client.calls) == ATTEMPTS
    assert len(pauses) == ATTEMPTS - 1


@pytest.mark.parametrize("kind", ["put", "swap", "parts"])
def test_a_write_whose_answer_was_lost_is_ours(s3, kind):
    method = "complete_multipart_upload" if kind == "parts" else "put_object"
    storage, _, _ = faulty(s3, {method: [ReadTimeoutError(endpoint_url="x")]}, after=True)
    data = b"mine" * (PART if kind == "parts" else 1)
    if kind == "swap":
        version = storage.swap("a", data, None)
        assert storage.swap("a", b"next", version)
    else:
        storage.put("a", data)
        assert storage.get("a") == data


def test_a_write_that_lost_after_a_retry_has_lost(s3):
    s3.put("a", b"theirs")
    storage, _, _ = faulty(s3, {"put_object": [refused("InternalError", 500)]})
    with pytest.raises(ConflictError):
        storage.put("a", b"mine")


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, 2 * PART, 2 * PART + 1, 3 * PART + 7])
def test_any_size(s3, size):
    data = np.random.default_rng(size).bytes(size)
    s3.put("a/large", data)
    assert s3.get("a/large") == data
    with pytest.raises(ConflictError):
        s3.put("a/large", data)
    assert s3.client.list_multipart_uploads(Bucket=s3.bucket).get("Uploads", []) == []


def test_a_large_object_that_another_made_meanwhile_is_left_alone(s3):
    storage, client, _ = faulty(s3, {})

    def complete(**options):
        s3.put("race", b"theirs")
        return s3.client.complete_multipart_upload(**options)

    client.complete_multipart_upload = complete
    with pytest.raises(ConflictError):
        storage.put("race", bytes(2 * PART + 9))
    assert s3.get("race") == b"theirs"
    assert s3.client.list_multipart_uploads(Bucket=s3.bucket).get("Uploads", []) == []


@pytest.mark.parametrize("reader", ["boto3", "obstore"])
def test_arrays_of_either_reader(s3, reader):
    arrays = {"X": np.random.default_rng(0).standard_normal((3000, 500)), "y": np.arange(3000.0)}
    s3.put_arrays("a", arrays)
    storage = S3Storage(s3.bucket, s3.client, reader=reader)
    found = storage.get_arrays("a")
    assert all(np.array_equal(found[name], arrays[name]) for name in arrays)
    with pytest.raises(KeyMissingError, match="no object 'b'"):
        storage.get_arrays("b")
    assert storage.usage.bytes_in >= 3000 * 501 * 8


def test_arrays_are_aligned_as_in_a_file(s3):
    s3.put_arrays("a", {"x": np.zeros(3), "y": np.zeros(5)})
    assert [array.ctypes.data % 64 for array in s3.get_arrays("a").values()] == [0, 0]


def test_pages_of_keys(s3):
    storage, client, _ = faulty(s3, {})
    client.list_objects_v2 = partial(s3.client.list_objects_v2, MaxKeys=3)
    keys = [f"a/{i:02d}/x" for i in range(11)]
    for key in [*keys, "ab"]:
        storage.put(key, b"")
    assert storage.list("a") == keys
    assert storage.folders("a") == [f"{i:02d}" for i in range(11)]
    assert storage.delete("a") == 11
    assert storage.list("") == ["ab"]


def test_jobs_are_listed_by_as_many_requests_however_many_objects_they_have(s3):
    storage, client, _ = faulty(s3, {})
    client.list_objects_v2 = partial(s3.client.list_objects_v2, MaxKeys=4)
    store = JobStore(storage)
    jobs = [f"job-{i}" for i in range(6)]

    def requests(most=None):
        before = storage.usage.now()
        found = store.ids(most)
        used = storage.usage.since(before)
        return found, used.writes, used.reads

    for job in jobs:
        storage.put(f"jobs/{job}/spec.json", b"")
    few = requests()
    assert few == (jobs, 2, 6)  # pages of four folders, and a look into each
    for i in range(9):
        for job in jobs:
            storage.put(f"jobs/{job}/scratch/{i}/x", b"")
    storage.put("jobs/left/x", b"")  # of a job that was deleted
    assert requests() == (jobs, 2, 7)
    assert requests(2) == (jobs[-2:], 2, 3)


def test_usage_is_counted(s3):
    before = s3.usage.now()
    s3.put("a", b"123")
    s3.get("a")
    s3.list("")
    used = s3.usage.since(before)
    assert (used.reads, used.writes, used.bytes_in, used.bytes_out) == (1, 2, 3, 3)


def test_the_blind_take_a_refusal_for_absence(s3):
    whole, short = refused("AccessDenied", 403), refused("403", 403)
    faults = {"get_object": [whole] * 2, "head_object": [short] * 2, "put_object": [whole]}
    storage, _, _ = faulty(s3, faults, blind=True)
    with pytest.raises(KeyMissingError):
        storage.get("a")
    assert not storage.exists("a")
    with pytest.raises(StorageError, match="access denied"):
        storage.put("a", b"")
    seeing, _, _ = faulty(s3, faults)
    with pytest.raises(StorageError, match=rf"^access denied to s3://{s3.bucket}/a: the role"):
        seeing.get("a")
    with pytest.raises(StorageError, match="access denied"):
        seeing.exists("a")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (NoCredentialsError(), "no usable AWS credentials .*: run `aws configure`, or set AWS_PROFILE"),
        (refused("ExpiredToken", 400), "the AWS credentials have expired: renew them"),
        (refused("RequestTimeTooSkewed", 403), "this machine's clock is off by more than AWS accepts: set it"),
        (refused("InvalidAccessKeyId", 403), r"AWS does not accept the credentials \(InvalidAccessKeyId\)"),
        (refused("NoSuchBucket", 404), "no bucket 'b': deploy first, or check its name and the region"),
        (refused("AccessDenied", 403), "access denied to s3://b/k: the role or user"),
        (EndpointConnectionError(endpoint_url="http://x"), "cannot reach s3://b/k: .*http://x.*; check the network"),
        (refused("Odd", 418, "teapot"), "cannot use s3://b/k: Odd: teapot"),
    ],
)
def test_errors_in_one_line(error, said):
    import re

    text = explain(error, "s3://b/k", "b")
    assert re.match(said, text)
    assert "\n" not in text


def test_a_bucket_that_is_not_there(s3):
    storage = S3Storage("no-such-bucket-here", s3.client)
    for ask in (lambda: storage.get("a"), lambda: storage.put("a", b""), lambda: storage.list("")):
        with pytest.raises(StorageError, match="no bucket 'no-such-bucket-here': deploy first"):
            ask()


def test_no_credentials(s3_settings, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    storage = S3Storage("any", s3_client())
    with pytest.raises(StorageError, match="no usable AWS credentials"):
        storage.get("a")
    storage.client.close()


def test_no_service(s3_settings, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    storage = S3Storage("any", s3_client(), pause=lambda _: None)
    with pytest.raises(StorageError, match="cannot reach s3://any/a"):
        storage.get("a")
    storage.client.close()


def test_a_data_set_is_imported_straight_into_the_bucket(s3):
    from coordinator.data.blocks import list_data, open_data
    from coordinator.data.importing import ImportOptions, import_data
    from coordinator.storage import MemoryStorage

    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((500, 7)), rng.standard_normal(500)
    import_data(s3, X, ImportOptions(name="toy"), target=y)
    assert list_data(s3) == ["toy"]
    beside = MemoryStorage()
    import_data(beside, X, ImportOptions(name="toy"), target=y)
    for a, b in zip(open_data(s3, "toy").keys, open_data(beside, "toy").keys, strict=True):
        assert np.array_equal(s3.get_arrays(a)["X"], beside.get_arrays(b)["X"])
