"""One public class each; each has a `step()` that does what is due and says when to ask again."""
