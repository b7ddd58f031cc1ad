"""Ray itself: connecting to it, its nodes, the watch over its head, spot notices."""
