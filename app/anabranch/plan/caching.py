"""Compiles how the answers of a call are cached: the rule, and what of a request is part of the key."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, TypeGuard

import msgspec

from anabranch.cache.judge import wanted_of
from anabranch.cache.keys import OF_THE_REQUEST, REACHED_BY
from anabranch.cache.memory import Bounds
from anabranch.cache.rule import Caching, Rule
from anabranch.config import model as config
from anabranch.config.base import ALL
from anabranch.config.cache import DefaultCache
from anabranch.config.problems import Problems
from anabranch.config.units import format_duration, format_ratio
from anabranch.core.exchange import Answer, HeaderBlock
from anabranch.core.field import name_fault
from anabranch.errors import StepError
from anabranch.jsontext.frame import MISSING, Frame
from anabranch.jsontext.shape import Shape, choose_mode, compile_reader
from anabranch.plan.decoding import Decoding, content_type, json_fault
from anabranch.plan.forwarding import CREDENTIALS
from anabranch.plan.operation import StepContext
from anabranch.plan.reference import AUTH, VALUE, Reference, Template, TemplateError, parse, strings
from anabranch.plan.template import SlotOf, compile_json
from anabranch.plan.value import as_text, elements

_METHODS: Final = ("GET", "HEAD")
_MOST_TAGS: Final = 64
_LONGEST_TAG: Final = 256

CachingOf = Callable[[Frame, Mapping[bytes, bytes]], Caching]
"""How a call is cached, from its frame and the client's header fields."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CachingPlan:
    """`of`: always gives the same where nothing depends on the request. `origin`: see `Caching`. `fault_of`: likewise."""

    rule: Rule
    of: CachingOf
    origin: str
    fault_of: Callable[[Answer], str]
    key: tuple[str, ...] = ()
    vary_on: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    def marks(self) -> list[str]:
        rule = self.rule
        if rule.is_fallback:
            return ["stale if error"]
        words = ["cached for all" if rule.is_public else "cached"]
        words += [] if rule.ttl_s is None else [f"for {format_duration(rule.ttl_s)}"]
        return [" ".join(words), *(["stale if error"] if rule.stale_if_error_s else [])]

    def facts(self) -> dict[str, Any]:
        """For explain. Durations as in the document."""
        rule = self.rule
        durations = {
            "ttl": rule.ttl_s,
            "negative": rule.negative_s,
            "stale_while_revalidate": rule.stale_while_revalidate_s,
            "stale_if_error": rule.stale_if_error_s,
        }
        facts: dict[str, Any] = {name: format_duration(value) for name, value in durations.items() if value is not None}
        if rule.is_fallback:
            return facts
        facts["scope"] = "public" if rule.is_public else "principal"
        lists = {"key": self.key, "vary_on": self.vary_on, "tags": self.tags}
        facts |= {name: list(value) for name, value in lists.items() if value}
        return (
            facts
            | ({"heuristic": format_ratio(rule.heuristic)} if rule.heuristic else {})
            | ({"obey_client": True} if rule.obeys_client else {})
        )


def bounds_of(document: config.Document, problems: Problems) -> Bounds:
    """The bounds of the memory. Reports the old name of the section."""
    memory, entries, most = document.cache.memory, document.cache.entries, document.cache.max_entry
    if document.stale is not None:
        hint = "write `cache: {memory: ..., entries: ...}`"
        if "cache" in document.model_fields_set:
            problems.add(("stale",), "`stale` is the old name of `cache`, which is there too", hint="remove `stale`")
        else:
            problems.add(("stale",), "`stale` is the old name of `cache`", hint=hint, is_warning=True)
            memory, entries = document.stale.size, document.stale.entries
    if "shared" in document.cache.model_fields_set and document.store is None:
        problems.add(("cache", "shared"), "`shared` has no effect: the document has no `store`", hint="add a `store`, or remove the key")
    if most is not None and most > memory:
        problems.add(("cache", "max_entry"), "no entry can be larger than all of the `memory`", value=most)
    return Bounds(max_bytes=memory, max_entries=entries, max_entry_bytes=max(memory // 8, 1) if most is None else most)


def is_cached_call(step: config.Step, defaults: config.Defaults) -> TypeGuard[config.CallStep]:
    """Whether answers to the step may be stored."""
    if not isinstance(step, config.CallStep):
        return False
    return step.stale_if_error_s is not None or bool(defaults.cache if step.cache is None else step.cache)


def check_caching(step: config.CallStep, method: str, forward_headers: Sequence[str], context: StepContext) -> DefaultCache | None:
    """The rule of a call as written; None if it is not cached, by itself or because something is wrong, which is reported."""
    is_own = step.cache is not None
    written = step.cache if is_own else context.known.defaults.cache
    hindrance = _hindrance(step, method)
    if step.stale_if_error_s is not None and method != "GET":
        context.report(f"only a GET can use an old answer, and this is a {method}", "stale_if_error")
    if not written:
        return None if step.stale_if_error_s is None else DefaultCache()
    if hindrance:
        if is_own:
            context.report(hindrance, "cache")
        return None if step.stale_if_error_s is None else DefaultCache()
    rule = config.Cache() if written is True else written
    assert isinstance(rule, DefaultCache)
    if step.stale_if_error_s is not None and rule.stale_if_error_s is not None and is_own:
        context.report("`stale_if_error` stands in `cache` already", "stale_if_error", hint="remove one of them")
    if isinstance(rule, config.Cache):
        for key in ("key", "vary_on", "tags"):
            _check_texts(getattr(rule, key), key, forward_headers, context)
    if rule.scope == "public" and (why := _of_principal(step, forward_headers, context)):
        at = ("cache", "scope") if isinstance(step.cache, config.Cache) else ()
        hint = "use `scope: principal`, or send the service nothing of the client"
        where = "" if is_own else " (by `defaults.cache`)"
        context.report(f"the answer is not the same for everybody, as `scope: public`{where} says: {why}", *at, hint=hint)
    return rule


def _hindrance(step: config.CallStep, method: str) -> str:
    if method not in _METHODS:
        return f"only a GET or HEAD can be cached, and this is a {method}"
    if "body" in step.model_fields_set:
        return "a call with a body cannot be cached"
    if step.until is not None:
        return "`until` repeats the call until its answer changes, so `cache` would repeat a stored one: they exclude each other"
    return ""


def _check_texts(texts: Sequence[str], key: str, forward_headers: Sequence[str], context: StepContext) -> None:
    listed = {name.lower() for name in forward_headers}
    for index, text in enumerate(texts):
        where = ("cache", key, index)
        if key == "vary_on" and "{" not in text:
            if (fault := name_fault(text)) is not None:
                context.report(fault, *where, value=text)
            elif text.lower() in listed:
                context.report(f"{text.lower()} is part of the key already, because it is forwarded by its name", *where, value=text)
            continue
        template = context.parse(text, *where, local=context.local | {VALUE} if key == "tags" else None)
        references = [part for part in template if isinstance(part, Reference)]
        if template and not references and key != "tags":
            context.report(f"{text!r} is the same in every request, so it has no effect in a key", *where)
        for part in references:
            if part.is_nullable:
                context.report(f"`?` has no effect in {part}: a reference without a value is null here", *where)
            if part.root == VALUE and part.meta:
                context.report(f"{part} cannot be a tag: only the answer's body can", *where)


def _of_principal(step: config.CallStep, forward_headers: Sequence[str], context: StepContext) -> str:
    """What of the client the call carries, so that its answer may be for nobody else; "" for nothing."""
    upstream = context.known.upstreams.get(step.upstream)
    if upstream is not None and upstream.tells_client:
        return "the upstream is sent a token of the client"
    for name in forward_headers:
        if name.lower() in CREDENTIALS:
            return f"the client's {name.lower()} is forwarded"
    for part in _references(step):
        if part.root == AUTH and AUTH not in context.endpoint.steps:
            return f"{part} is of the client"
        if part.root == "cookie" or (part.root == "header" and part.path and part.path[0].lower() in CREDENTIALS):
            return f"{part} may prove who the client is"
    return ""


def _references(step: config.CallStep) -> Iterator[Reference]:
    queries = [value.value if isinstance(value, config.QueryValue) else value for value in step.query.values()]
    for _, text in strings([step.path, list(step.headers.values()), queries]):
        try:
            template = parse(text)
        except TemplateError:
            continue
        yield from (part for part in template if isinstance(part, Reference))


def compile_caching(
    step: config.CallStep,
    written: DefaultCache,
    context: StepContext,
    *,
    block: HeaderBlock,
    forward_headers: Sequence[str],
    decoding: Decoding | None,
    origin: str,
) -> CachingPlan:
    """The plan of a call whose rule was checked. `block`: its fixed header fields."""
    is_fallback = not (context.known.defaults.cache if step.cache is None else step.cache) or bool(_hindrance(step, "GET"))
    rule = Rule(
        ttl_s=written.ttl_s,
        negative_s=written.negative_s,
        heuristic=written.heuristic,
        stale_while_revalidate_s=written.stale_while_revalidate_s,
        stale_if_error_s=step.stale_if_error_s if step.stale_if_error_s is not None else written.stale_if_error_s,
        is_public=written.scope == "public",
        obeys_client=written.obey_client,
        has_client_token=context.known.upstreams[step.upstream].tells_client,
        is_fallback=is_fallback,
    )
    computed = [name.lower() for name, text in step.headers.items() if any(isinstance(part, Reference) for part in parse(text))]
    listed = [name.lower() for name in forward_headers if name != ALL]
    identity = (step.upstream, rule, "" if decoding is None else decoding.name, sorted(step.success or ()), block.wire)
    fault_of = json_fault if decoding is None else decoding.fault_of
    common = Caching(
        rule,
        step.upstream.encode() + b":" + blake2b(msgspec.msgpack.encode(identity), digest_size=8).hexdigest().encode(),
        fault_of,
        keyed=None if is_fallback else REACHED_BY.union(name.encode() for name in (*computed, *listed)) - OF_THE_REQUEST,
        origin=origin,
        is_judged=step.expect is not None,
        is_open=ALL in forward_headers,
    )
    own = written if isinstance(written, config.Cache) else config.Cache()
    return CachingPlan(
        rule=rule,
        of=_of(common, own, context.scope.slot, decoding),
        origin=origin,
        fault_of=fault_of,
        key=tuple(own.key),
        vary_on=tuple(own.vary_on),
        tags=tuple(own.tags),
    )


def _of(common: Caching, own: config.Cache, slot_of: SlotOf, decoding: Decoding | None) -> CachingOf:
    fields = tuple(name.lower().encode() for name in own.vary_on if "{" not in name)
    templates = [*own.key, *(text for text in own.vary_on if "{" in text)]
    values = compile_json(templates, slot_of, is_strict=False) if templates else None
    tags = _compile_tags([parse(text) for text in own.tags], slot_of, decoding)
    obeys_client = common.rule.obeys_client
    if not fields and values is None and not obeys_client and (tags is None or not own.tags):
        return lambda _frame, _headers: common

    def of(frame: Frame, headers: Mapping[bytes, bytes]) -> Caching:
        parts = [] if values is None else [values(frame)]
        for name in fields:
            value = headers.get(name)
            parts.append(b"-" if value is None else b"%d:%b" % (len(value), value))
        return Caching(
            common.rule,
            common.prefix,
            common.fault_of,
            common.keyed,
            b"\n".join(parts),
            wanted_of(headers.get(b"cache-control"), headers.get(b"pragma")) if obeys_client else None,
            common.origin,
            None if tags is None else lambda answer: tags(frame, answer),
            common.is_judged,
            common.is_open,
        )

    return of


def _compile_tags(
    templates: Sequence[Template], slot_of: SlotOf, decoding: Decoding | None
) -> Callable[[Frame, Answer], tuple[str, ...]] | None:
    """A function from a frame and an answer to the answer's tags; None without tags. A tag of which a part has no value is left out."""
    if not templates:
        return None
    own = dict.fromkeys(part for template in templates for part in template if isinstance(part, Reference) and part.root == VALUE)
    slots = [(part.path, slot_of(part)) for part in own]
    read = compile_reader(Shape(), slots, choose_mode(Shape(), slots)) if slots else None
    compiled = [[part if isinstance(part, str) else slot_of(part) for part in template] for template in templates]

    def tags_of(frame: Frame, answer: Answer) -> tuple[str, ...]:
        if read is not None:
            frame = frame.copy()
            try:
                read(answer.body if decoding is None else decoding.read(answer.body, content_type(answer)), frame)
            except StepError:
                for _, slot in slots:
                    frame[slot] = MISSING
        found = dict.fromkeys(tag for parts in compiled for tag in _expand(parts, frame) if 0 < len(tag) <= _LONGEST_TAG)
        return tuple(found)[:_MOST_TAGS]

    return tags_of


def _expand(parts: Sequence[str | int], frame: Frame) -> list[str]:
    """The texts of a template: one for each element where a reference is to an array."""
    texts = [""]
    for part in parts:
        if isinstance(part, str):
            ends: list[str] = [part]
        else:
            value: Any = frame[part]
            text = as_text(value)
            ends = [text] if text is not None else [one for item in elements(value) or () if (one := as_text(item)) is not None]
        texts = [text + end for text in texts for end in ends][:_MOST_TAGS]
    return texts
