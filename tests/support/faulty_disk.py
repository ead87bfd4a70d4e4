"""A journal's disk that fails when it is told to, at the step it is told to; everything else happens on the real file system."""

from pathlib import Path

from anabranch.journal.disk import Appender, Disk


class FaultyDisk(Disk):
    """`faults`: by step (`prepare`, `create`, `append`, `sync`, `truncate`, `free`), the error it raises, as long as it stands there.
    `torn`: how much of the data a failing append still writes. `free`: what is said to be free, None for the truth."""

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
