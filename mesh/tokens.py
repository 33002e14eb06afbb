"""Token estimates: cheap, deterministic, close enough to budget with.

No tokenizer is loaded: the models behind Plexus use different ones and most are not
public. English prose and code run near four characters a token, Cyrillic near two, and
Chinese, Japanese and Korean near one; UTF-8's own length tells these apart at C speed.
"""

EIGHTHS_PER_TOKEN = 8
"""The unit of `token_eighths`: pieces of a text sum without rounding each of them up."""


def estimate_tokens(text: str) -> int:
    """Estimate the tokens of a text; 0 for an empty one, else at least 1.

    Never smaller for a longer text with the same beginning. Safe for any `str`,
    lone surrogates included.
    """
    return tokens_from_eighths(token_eighths(text))


def token_eighths(text: str) -> int:
    """Weigh a text in eighths of a token, so that pieces may be summed before rounding."""
    characters = len(text)
    if text.isascii():
        return 2 * characters
    beyond_ascii = len(text.encode("utf-8", "surrogatepass")) - characters
    return 2 * characters + 3 * beyond_ascii


def tokens_from_eighths(eighths: int) -> int:
    """Round a sum of `token_eighths` up to whole tokens."""
    return -(-eighths // EIGHTHS_PER_TOKEN)
