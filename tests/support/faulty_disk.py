"""A journal disk with injected failures at chosen steps; everything else uses the real file system."""

from pathlib import Path

from anabranch.journal.disk import Appender, Disk


class FaultyDisk(Disk):
    """`faults`: by step (`prepare`, `create`, `append`, `sync`, `truncate`, `free`), the error that the step raises while the entry exists.
    `torn`: bytes of the data that a failing append still writes. `free`: reported free bytes; None reports the real value."""

    def __init__(self, folder: Path, worker: str = "0123456789") -> None:
        super().__init__(folder, worker)
        self.faults: dict[str, OSError] = {}
        self.torn = 7
        self.free: int | None = None
        self.syncs = 0

    def meet(self, step: str) -> None:
        if step in self.faults:
            raise self.faults[step]

    async def prepare(self) -> None:
        self.meet("prepare")
        await super().prepare()

    async def create(self, name: str) -> Appender:
        self.meet("create")
        inner = await super().create(name)
        return FaultyAppender(inner, self)

    async def free_bytes(self) -> int:
        self.meet("free")
        return await super().free_bytes() if self.free is None else self.free


class FaultyAppender(Appender):
    def __init__(self, inner: Appender, disk: FaultyDisk) -> None:
        super().__init__(inner.path, inner._file, disk)
        self._faulty = disk

    async def append(self, data: bytes) -> None:
        if "append" in self._faulty.faults:
            await super().append(data[: self._faulty.torn])
        self._faulty.meet("append")
        await super().append(data)

    async def sync(self) -> None:
        self._faulty.meet("sync")
        self._faulty.syncs += 1
        await super().sync()

    async def truncate(self, size_bytes: int) -> None:
        self._faulty.meet("truncate")
        await super().truncate(size_bytes)
