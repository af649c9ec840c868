"""The same work as the peers', done by maskserve."""
