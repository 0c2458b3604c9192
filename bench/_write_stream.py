"""The reference page for the comparison: one button, one prompt, `st.write_stream`."""

from __future__ import annotations

import os

import openai
import streamlit as st
from openai.types.chat import ChatCompletionUserMessageParam

if st.button("Write"):
    client = openai.OpenAI(base_url=os.environ["BENCH_TELLER"] + "/v1", api_key="x")
    asked: ChatCompletionUserMessageParam = {"role": "user", "content": "a story"}
    st.write_stream(client.chat.completions.create(model="writer", messages=[asked], stream=True))
