"""`{{ xcom... }}` templates: parsed once, rendered from values at hand (floor 3, pure)."""
