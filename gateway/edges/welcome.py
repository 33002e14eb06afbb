"""What the HTTP edge says about itself: to a person at `/`, and to a client on a wrong path."""

_ROUTES = (
    ("POST", "/v1/chat/completions", "chat, streamed or not"),
    ("POST", "/v1/embeddings", "embeddings"),
    ("GET", "/v1/models", "the models that requests may name"),
    ("GET", "/healthz", "whether the process works"),
    ("GET", "/readyz", "whether it takes traffic"),
    ("GET", "/metrics", "figures for Prometheus"),
)
LEGACY_COMPLETIONS = "/v1/completions"


def welcome(base_url: str, *, anonymous: bool) -> str:
    """Return the page at `/`, with a command to try."""
    key = "" if anonymous else " \\\n  -H 'authorization: Bearer <your key>'"
    routes = "\n".join(f"  {method:<5}{path:<22}{what}" for method, path, what in _ROUTES)
    return f"""\
Plexus: a mesh that answers, remembers and accounts.
This is its OpenAI-compatible edge: set an OpenAI client's base_url to {base_url}/v1

Try it:

curl -N {base_url}/v1/chat/completions{key} \\
  -H 'content-type: application/json' \\
  -d '{{"model":"default","stream":true,"messages":[{{"role":"user","content":"Hello"}}]}}'

Routes:
{routes}
"""


def no_such_route(path: str) -> str:
    """Return the sentence for a path that is not served."""
    if path == LEGACY_COMPLETIONS:
        return (
            "the legacy completions API is not served: use /v1/chat/completions "
            "(in LlamaIndex's OpenAILike set is_chat_model=True)"
        )
    served = ", ".join(f"{method} {path}" for method, path, _ in _ROUTES)
    return f"there is nothing here; served are {served}"
