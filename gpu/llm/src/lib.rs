//! mobula-llm.
