"""What a CNI plug-in answers when it cannot do what it was asked for: a code of the specification and a text."""

from __future__ import annotations

import json

INCOMPATIBLE_VERSION = 1
UNSUPPORTED_FIELD = 2
UNKNOWN_CONTAINER = 3
BAD_ENVIRONMENT = 4
IO_FAILURE = 5
DECODING_FAILURE = 6
INVALID_CONFIG = 7
INVALID_NAMESPACE = 8
TRY_AGAIN_LATER = 11
NOT_AVAILABLE = 50
# From 100 on codes are a plug-in's own.
AGENT_FAILED = 100
CONFLICT = 101
EXHAUSTED = 102
DIFFERS = 103
FORBIDDEN = 104
INTERNAL = 999

_CODE_BY_WORD = {
    "invalid": INVALID_CONFIG,
    "not-found": INVALID_NAMESPACE,
    "conflict": CONFLICT,
    "exhausted": EXHAUSTED,
    "differs": DIFFERS,
    "unavailable": TRY_AGAIN_LATER,
    "timeout": TRY_AGAIN_LATER,
    "forbidden": FORBIDDEN,
}


class CniError(Exception):
    """The call failed; nothing that it began is left unless the text says so.

    code: of the specification. word: the agent's for why it refused, empty if it is not the agent that did.
    """

    def __init__(self, code: int, text: str, details: str = "", word: str = "") -> None:
        super().__init__(text)
        self.code = code
        self.details = details
        self.word = word

    def render(self, version: str) -> str:
        """Returns the error document. version: that of the configuration, empty when it could not be read."""
        document: dict[str, object] = {"cniVersion": version} if version else {}
        document |= {"code": self.code, "msg": str(self)}
        if self.details:
            document["details"] = self.details
        return json.dumps(document, indent=4) + "\n"


def code_for(word: str) -> int:
    """Returns the code for the agent's word for why it refused."""
    return _CODE_BY_WORD.get(word, AGENT_FAILED)
