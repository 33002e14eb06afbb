"""One file for each kind of upstream, behind the protocol in `provider.py`."""
