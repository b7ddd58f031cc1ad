"""One trial on the cluster: a Tune trainable that starts a Ray Train worker group and keeps its files."""
