"""One file a sub-command of `icu-ray`, each a thin door to a room: `add(commands)` says its options."""
