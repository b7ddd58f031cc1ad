"""Files by path or URL, shared artefacts by content, and the values that trials leave. No Ray, no torch."""
