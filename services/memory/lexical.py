"""How texts become words: the same for documents and queries, and for both stores.

The multilingual tokenizer finds words where no spaces are (Chinese, Japanese, Thai) and gives the
same tokens as the plain one elsewhere. Stored weights depend on this choice: changing it needs a
new index.
"""

import qdrant_edge as edge


def make_bm25() -> edge.Bm25:
    """Return the one BM25 of Plexus: lower case, English stop words and stems, k 1.2, b 0.75."""
    return edge.Bm25(edge.Bm25Config(tokenizer=edge.TokenizerType.Multilingual))
