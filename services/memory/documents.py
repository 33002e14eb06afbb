"""Takes documents in: whole revisions, replaced only when the new one is complete.

The upload is read to its end before anything is written. A claim then names the revision and the
ids its pieces will have, so that an attempt cut short by a crash is finished, not doubled, by the
next. The pieces of other revisions go last.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from itertools import islice
from weakref import WeakValueDictionary

from mesh.errors import Conflict, InvalidArgument, Reason
from mesh.validation import check_bytes, invalid, require
from plexus.memory.v1 import memory_service_pb2 as pb
from services.memory import payload as fields
from services.memory.filters import Filter, all_of, equals, none_of
from services.memory.ids import IdClock, derived_id, fingerprint
from services.memory.messages import check_scope, scope_parts
from services.memory.pieces import Piece, split
from services.memory.store import Draft, Item, MemoryStore

MAX_DOCUMENT_BYTES = 32 * 1024 * 1024
MAX_CHUNK_BYTES = 1024 * 1024
MAX_DOCUMENT_ID_BYTES = 256
MAX_TITLE_BYTES = 128
WRITE_BATCH = 200
MEDIA_TYPES = ("text/plain", "text/markdown")
CUT_VERSION = "1"
"""Part of a revision's name: a better way of cutting makes the same bytes another revision."""


@dataclass(frozen=True, slots=True)
class Ingested:
    """What became of a document."""

    piece_count: int
    unchanged: bool
    replaced_count: int


async def read_upload(
    requests: AsyncIterator[pb.IngestDocumentRequest],
) -> tuple[pb.DocumentHeader, bytes]:
    """Return the header and all bytes; refuse what is out of order or above the limits."""
    header: pb.DocumentHeader | None = None
    data = bytearray()
    async for request in requests:
        if request.WhichOneof("content") == "header":
            require(header is None, "header", "came twice")
            header = request.header
            _check_header(header)
            continue
        require(header is not None, "header", "must be the first message")
        check_bytes_count(len(request.chunk), "chunk", MAX_CHUNK_BYTES)
        data += request.chunk
        check_bytes_count(len(data), "document", MAX_DOCUMENT_BYTES)
    if header is None:
        raise invalid("header", "is missing")
    if header.HasField("size_bytes") and header.size_bytes != len(data):
        raise invalid("chunk", f"the upload ended after {len(data)} of {header.size_bytes} bytes")
    return header, bytes(data)


def check_bytes_count(size: int, field: str, high: int) -> None:
    """Refuse more than `high` bytes."""
    if size > high:
        raise InvalidArgument(
            f"{field}: must be at most {high} bytes",
            reason=Reason.MESSAGE_TOO_LARGE,
            violations=[(field, f"must be at most {high} bytes")],
        )


def _check_header(header: pb.DocumentHeader) -> None:
    check_scope(header.scope, "header.scope")
    check_bytes(header.document_id, "header.document_id", low=1, high=MAX_DOCUMENT_ID_BYTES)
    check_bytes(header.title, "header.title", high=MAX_TITLE_BYTES)
    known = header.media_type in MEDIA_TYPES
    require(known, "header.media_type", f"must be one of {', '.join(MEDIA_TYPES)}")


@dataclass(frozen=True, slots=True)
class _Claim:
    """A document's revision, the moment from which its ids count, and whether it is whole."""

    revision: str
    base_us: int
    piece_count: int
    complete: bool

    def encode(self) -> str:
        return json.dumps([self.revision, self.base_us, self.piece_count, self.complete])


class Documents:
    """Writes revisions of documents; one at a time for the same document in this process."""

    def __init__(self, store: MemoryStore, ids: IdClock) -> None:
        self._store = store
        self._ids = ids
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def ingest(self, tenant: str, header: pb.DocumentHeader, data: bytes) -> Ingested:
        """Write the document's pieces; the same bytes under the same id change nothing."""
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise invalid("chunk", f"is not UTF-8 at byte {error.start}") from error
        require(bool(text.strip()), "chunk", "the document holds no text")
        name = "document:" + fingerprint(*scope_parts(header.scope), header.document_id)
        lock = self._locks.setdefault(f"{tenant}/{name}", asyncio.Lock())
        async with lock:
            return await self._replace(tenant, name, header, text)

    async def _replace(
        self, tenant: str, name: str, header: pb.DocumentHeader, text: str
    ) -> Ingested:
        # Megabytes take seconds to cut, and the loop has other callers.
        markdown = header.media_type == "text/markdown"
        pieces = await asyncio.to_thread(split, text, markdown=markdown)
        revision = fingerprint(CUT_VERSION, header.media_type, header.title, text)
        where = _pieces_of(header)
        kept = await self._store.read_record(tenant, name)
        claim = _Claim(*json.loads(kept)) if kept else None
        if claim is None or claim.revision != revision:
            claim = _Claim(revision, self._ids.reserve_us(len(pieces)), len(pieces), False)
        elif claim.complete and await self._store.count(tenant, where) == claim.piece_count:
            return Ingested(claim.piece_count, True, 0)
        await self._store.put_record(tenant, name, claim.encode())
        await self._write(tenant, name, header, pieces, claim)
        of_this = equals(fields.LABELS, fields.label("revision", revision))
        replaced = await self._store.delete(tenant, all_of(where, none_of(of_this)))
        if await self._store.count(tenant, where) != len(pieces):
            raise Conflict("another revision of this document was written meanwhile; try again")
        whole = _Claim(revision, claim.base_us, len(pieces), True)
        await self._store.put_record(tenant, name, whole.encode())
        return Ingested(len(pieces), False, replaced)

    async def _write(
        self,
        tenant: str,
        name: str,
        header: pb.DocumentHeader,
        pieces: Sequence[Piece],
        claim: _Claim,
    ) -> None:
        drafts = (
            _draft(
                derived_id(claim.base_us + index, tenant, name, claim.revision),
                header,
                piece,
                index,
                claim,
            )
            for index, piece in enumerate(pieces)
        )
        while batch := list(islice(drafts, WRITE_BATCH)):
            await self._store.write(tenant, batch)


def _pieces_of(header: pb.DocumentHeader) -> Filter:
    return all_of(
        equals(fields.KIND, pb.MEMORY_KIND_DOCUMENT),
        equals(fields.SOURCE, header.document_id),
        equals(fields.AGENT, header.scope.agent_id),
        equals(fields.CONVERSATION, header.scope.conversation_id),
        equals(fields.USER, header.scope.user_id),
    )


def _draft(
    item_id: str, header: pb.DocumentHeader, piece: Piece, index: int, claim: _Claim
) -> Draft:
    above = " > ".join(piece.headings)
    attributes = {"piece": str(index), "revision": claim.revision}
    if header.title:
        attributes["title"] = header.title
    created_us = claim.base_us + index
    item = Item(
        id=item_id,
        kind=pb.MEMORY_KIND_DOCUMENT,
        text=f"{above}\n\n{piece.text}" if above else piece.text,
        agent_id=header.scope.agent_id,
        conversation_id=header.scope.conversation_id,
        user_id=header.scope.user_id,
        attributes=attributes,
        event_us=created_us,
        created_us=created_us,
        source=header.document_id,
    )
    return Draft(item=item)
