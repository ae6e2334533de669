"""A gateway that speaks Groq's dialect of the OpenAI API in front of any OpenAI-compatible server."""
