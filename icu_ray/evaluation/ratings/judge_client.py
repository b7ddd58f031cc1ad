"""Asking an OpenAI-compatible endpoint: rate limits, back-off, and a key that is never shown.

Requests start evenly spaced, so that no minute holds more requests or tokens than allowed. 429, 5xx, a cut connection,
no answer in time and an answer that is no answer are tried again after a growing, jittered pause, or after what
Retry-After says, which then holds for all. A refused key, an unknown model or an exhausted account stop everything.

    async with JudgeClient(config, read_key(config)) as client: answer = await client.ask(messages)

Why not tenacity: it tries one call again. Here a pause that the server asks for holds for all calls, and each new try
takes its turn within the limits of requests and tokens a minute.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import logging
import os
import random
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import httpx2
from pydantic import SecretStr

from icu_ray.config import JudgeConfig
from icu_ray.errors import UserError
from icu_ray.evaluation.ratings.judge_answers import Answer
from icu_ray.evaluation.ratings.judge_prompt import Messages

LONGEST_PAUSE_S = 60.0
LONGEST_RETRY_AFTER_S = 600.0
"""A server that asks for more (a daily limit) ends the run, which goes on later where it stopped."""
_AGAIN = frozenset({408, 409, 425, 429})
_HTTP_LOGGERS = ("httpx2", "httpcore2")
"""They log what a server sends, headers too, and a server may send the key back."""


class Refused(Exception):
    """The endpoint does not answer this request, and why; other requests may fare better."""


class NoAnswer(Refused):
    """Every try ended in trouble that is rather the endpoint's than the request's."""


class _Trouble(Exception):
    """Worth another try; `wait` is what the server asks for, in seconds."""

    def __init__(self, what: str, wait: float | None = None) -> None:
        super().__init__(what)
        self.wait = wait


def read_key(config: JudgeConfig) -> SecretStr | None:
    """The key from its environment variable, None where the config says that there is none."""
    name = config.api_key_env
    if name is None:
        return None
    key = os.environ.get(name, "").strip()
    if not key:
        raise UserError(
            f"judge: environment variable {name} is not set; it holds the key of {config.base_url} "
            "(another variable: api_key_env=NAME; an endpoint without key: api_key_env=null)"
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(f"judge: the key in {name} holds characters that no key has; set it again")
    return SecretStr(key)


def estimate_tokens(messages: Messages) -> int:
    """About how many tokens a request has: four UTF-8 bytes one, and a few for each message."""
    return sum(len(message["content"].encode()) // 4 + 4 for message in messages)


class Pace:
    """Evenly spaced starts: a token bucket that holds one request, refilled `per_minute` units a minute."""

    def __init__(self, per_minute: float | None) -> None:
        self._seconds = 0.0 if per_minute is None else 60.0 / per_minute
        self._next = self._paused_until = 0.0

    async def take(self, units: float) -> None:
        """Wait for this request's turn; the next one's comes when `units` have been refilled."""
        while True:
            turn = max(time.monotonic(), self._next, self._paused_until)
            self._next = turn + units * self._seconds
            while (wait := turn - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            if turn >= self._paused_until:
                return
            # A pause began while this request waited: it takes a new turn, so that not all start at the pause's end.
            self._next = max(self._next, self._paused_until)

    def correct(self, units: float) -> None:
        """A request took `units` more than was said, or less."""
        self._next += units * self._seconds

    def pause(self, seconds: float) -> None:
        """Start nothing for some time."""
        self._paused_until = max(self._paused_until, time.monotonic() + seconds)


class JudgeClient:
    """One endpoint. Every text that comes from it is freed of the key, should it send the key back."""

    def __init__(self, config: JudgeConfig, key: SecretStr | None, pause_s: float = 1.0) -> None:
        """pause_s: seconds before the first retry, doubled each time."""
        self._config, self._key, self._pause_s = config, key, pause_s
        self._requests, self._tokens = Pace(config.requests_per_minute), Pace(config.tokens_per_minute)
        headers = {} if key is None else {"Authorization": f"Bearer {key.get_secret_value()}"}
        limits = httpx2.Limits(max_connections=config.max_concurrency)
        # One limit for a whole request stands in _send: a server that drips bytes defeats a limit on each read.
        # Redirects are not followed: the key is for this address alone.
        self._http = httpx2.AsyncClient(headers=headers, timeout=None, limits=limits, follow_redirects=False)

    async def __aenter__(self) -> JudgeClient:
        self._levels = {name: logging.getLogger(name).level for name in _HTTP_LOGGERS}
        for name in _HTTP_LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()
        for name, level in self._levels.items():
            logging.getLogger(name).setLevel(level)

    async def ask(self, messages: Messages) -> Answer:
        """The endpoint's answer. Refused: it will not answer this; UserError: it will answer nothing."""
        body: dict[str, Any] = {"model": self._config.model, "messages": list(messages)}
        if self._config.temperature is not None:
            body["temperature"] = self._config.temperature
        expected = estimate_tokens(messages) + self._config.reply_tokens
        tried = 0
        while True:
            await self._requests.take(1)
            await self._tokens.take(expected)
            try:
                answer = await self._send(body)
            except _Trouble as trouble:
                tried += 1
                if trouble.wait is not None:
                    self._requests.pause(trouble.wait)
                if tried > self._config.retries:
                    raise NoAnswer(f"{trouble}, {tried} times") from None
                pause = min(LONGEST_PAUSE_S, self._pause_s * 2 ** (tried - 1)) * random.uniform(0.5, 1.0)
                await asyncio.sleep(max(pause, trouble.wait or 0.0))
                continue
            if answer.input_tokens is not None and answer.output_tokens is not None:
                self._tokens.correct(answer.input_tokens + answer.output_tokens - expected)
            return answer

    async def _send(self, body: Mapping[str, Any]) -> Answer:
        url = f"{self._config.base_url.rstrip('/')}/chat/completions"
        try:
            async with asyncio.timeout(self._config.timeout_s):
                response = await self._http.post(url, json=body)
        except TimeoutError:
            raise _Trouble(f"no answer within {self._config.timeout_s:g} s") from None
        except httpx2.TransportError as error:
            # `from None`: the library's error carries the request with its headers.
            raise _Trouble(f"no connection ({self._clean(str(error)) or type(error).__name__})") from None
        except (httpx2.InvalidURL, httpx2.DecodingError) as error:
            raise _Trouble(f"no readable answer ({self._clean(str(error))})") from None
        if response.status_code == 200:
            return self._answer(response)
        raise self._error(response)

    def _answer(self, response: httpx2.Response) -> Answer:
        try:
            data = json.loads(response.content)
            choice = data["choices"][0]
            text, finish, usage = choice["message"]["content"], choice.get("finish_reason"), data.get("usage") or {}
            counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
        except (ValueError, LookupError, TypeError, AttributeError):
            raise _Trouble("an answer that is no chat completion") from None
        tokens = [n if isinstance(n, int) and not isinstance(n, bool) and n >= 0 else None for n in counts]
        model = data.get("model")
        return Answer(
            # A refusal has no content: an answer without a score, which is asked again as any other.
            text=self._clean(text) if isinstance(text, str) else "",
            finish=self._clean(finish) if isinstance(finish, str) else None,
            model=self._clean(model) if isinstance(model, str) else None,
            input_tokens=tokens[0],
            output_tokens=tokens[1],
        )

    def _error(self, response: httpx2.Response) -> Exception:
        """What an answer other than 200 means."""
        status, (code, message) = response.status_code, _error_body(response)
        # Cleaned before it is cut: half a key is no longer found.
        said = f"{status} {self._clean(message)[:300]}".strip()
        where = f"judge: {self._config.base_url}"
        if status in (401, 403):
            return UserError(f"{where} refuses the key in {self._config.api_key_env}: {said}; what was judged is kept")
        if status == 404:
            return UserError(f"{where} knows no model '{self._config.model}', or the address is wrong: {said}")
        if 300 <= status < 400:
            return UserError(f"{where} points to another address ({status}); set base_url to that one")
        if code == "insufficient_quota" or status == 402:
            return UserError(f"{where}: the account has no credit left: {said}; what was judged is kept")
        if status in _AGAIN or status >= 500:
            wait = _retry_after(response.headers)
            if wait is not None and wait > LONGEST_RETRY_AFTER_S:
                return UserError(f"{where} asks to wait {wait:.0f} s ({said}); run again then, what was judged is kept")
            return _Trouble(said, wait)
        return Refused(said)

    def _clean(self, text: str) -> str:
        key = None if self._key is None else self._key.get_secret_value()
        return text.replace(key, "[key]") if key else text


def _error_body(response: httpx2.Response) -> tuple[str | None, str]:
    """(code, message) of an error as OpenAI writes it; otherwise whatever was sent."""
    try:
        error = json.loads(response.content)["error"]
        return (str(error["code"]) if error.get("code") else None), str(error.get("message", ""))
    except (ValueError, LookupError, TypeError, AttributeError):
        return None, " ".join(response.text.split())


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds of a Retry-After header (a number or a date)."""
    value = headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(value)) if value else None
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
