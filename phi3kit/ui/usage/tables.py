"""Tables: what the Usage page compares and lists: wrappers, conversations, costs, and the turns themselves.

Knows widgets. Does not know how turns are compared or priced.
"""

from functools import partial

import pandas as pd
import streamlit as st

from phi3kit.core.records import SERVED
from phi3kit.ui.chat import open_conversation
from phi3kit.ui.shared import actions, elements, pages, permissions, resources, shell, theme, words
from phi3kit.ui.usage import turn_drawer
from phi3kit.ui.usage.chart_cards import show_bars, show_turns_of
from phi3kit.usage import charts, export, prices, summary
from phi3kit.usage.prices import Price

_CONVERSATION = "usage_conversation"  # whose turns are listed
_FILES = (
    ("CSV", "csv", "text/csv", export.to_csv),
    ("Parquet", "parquet", "application/vnd.apache.parquet", export.to_parquet),
    ("JSON", "json", "application/json", export.to_json),
)


def show_wrappers(turns: pd.DataFrame) -> None:
    """Both wrappers on the prompts that both were asked."""
    table = summary.same_prompts(turns)
    with st.container(border=True):
        st.markdown("**Both wrappers on the same prompts**")
        if table.empty:
            st.caption("Ask both wrappers the same prompt, for example on Compare, to compare them here.")
            return
        st.caption(f"Medians over {int(table['prompts'].iloc[0]):,} prompts that both were asked in this period.")
        for measure in ("time_to_first_token_s", "duration_s"):
            table[measure] = table[measure].map(partial(charts.measured, measure), na_action="ignore")
        st.dataframe(
            table.drop(columns=["prompts", "turns"]),
            hide_index=True,
            alt="Medians of both wrappers on the same prompts",
            column_config={
                "time_to_first_token_s": st.column_config.TextColumn("first token", alignment="right", width=90),
                "tokens_per_second": st.column_config.NumberColumn("tokens/s", format="%,.0f", width=70),
                "completion_tokens": st.column_config.NumberColumn("completion", format="%,.0f", width=80),
                "duration_s": st.column_config.TextColumn("duration", alignment="right", width=80),
            },
        )


def show_conversations(turns: pd.DataFrame) -> None:
    """Tokens of each conversation, and of the largest ones a way back into Chat, or the turns of those that are not there."""
    table = summary.conversations(turns)
    with st.container(border=True, height="stretch"):
        if table.empty:
            st.markdown("**Tokens per conversation**")
            st.caption("No turns belong to a conversation.")
            return
        figure = charts.tokens_a_conversation(table, theme.palette())
        bars = show_bars(figure, "conversations", "How many conversations took how many tokens", "tokens")
        if bars:
            names = [place for _, place in bars]
            found = turns[turns["conversation_id"].isin(charts.conversations_of(table, names))]
            show_turns_of(found, [f"conversations of {name} tokens" for name in names], "conversations")
        largest = table.head(5)
        st.caption(
            f"The largest of {len(table):,} conversations. The median has {table['total_tokens'].median():,.0f} tokens."
        )
        saved = _saved_chats(list(largest["conversation_id"]))
        with st.container(gap=None):
            for number, row in enumerate(largest.to_dict("records")):
                turns_at = f"{words.counted(row['turns'], 'turn')} · {words.date(row['at'], '%b, %H:%M')}"
                label = f"{row['total_tokens']:,} tokens · {turns_at}"
                conversation_id = str(row["conversation_id"])
                if conversation_id in saved:
                    pages.link("chat", label, {open_conversation.PARAMETER: conversation_id})
                else:
                    st.button(
                        label, icon=":material/list:", type="tertiary", key=f"usage_conversation_{number}",
                        help="Not a chat of yours: a batch, an API client, or a chat that was deleted. Lists its turns here.",
                        on_click=_choose_conversation, args=(conversation_id,),
                    )  # fmt: skip


def show_chosen_conversation(turns: pd.DataFrame) -> None:
    """The turns of the conversation that was chosen from the largest; nothing while none is."""
    chosen = turns[turns["conversation_id"] == st.session_state.get(_CONVERSATION)]
    if len(chosen):
        with st.container(border=True):
            st.markdown(f"**{words.counted(len(chosen), 'turn')}** of this conversation")
            turn_drawer.show_table(chosen, "usage_conversation_turns", "The turns of the conversation")


def _saved_chats(ids: list[str]) -> set[str]:
    """Those of some conversations that this reader can open in Chat; none where the saved ones cannot be read."""
    with shell.errors_shown():
        return open_conversation.store().among(ids)
    return set()


def _choose_conversation(conversation_id: str) -> None:
    """List the turns of this conversation, or of none where its turns are listed already."""
    again = st.session_state.get(_CONVERSATION) == conversation_id
    st.session_state[_CONVERSATION] = None if again else conversation_id


def show_costs(turns: pd.DataFrame) -> None:
    """What the turns cost by one's own prices, and by list prices."""
    home = resources.settings().home
    own = prices.load(home)
    with st.container(border=True):
        st.markdown("**Cost**")
        table = prices.compared(turns, own)
        models = list(table["model"])[1:]
        elements.check_link("usage_list_prices", "The same tokens at list prices", models)
        wanted = st.pills(
            "The same tokens at list prices", models, selection_mode="multi", default=models[:4],
            key="usage_list_prices", bind="query-params",
        )  # fmt: skip
        st.dataframe(
            table[table["model"].isin([table["model"].iloc[0], *wanted])],
            hide_index=True,
            column_order=["model", "cost", "prompt", "cached_prompt", "completion"],
            placeholder="–",
            alt="What the same tokens would cost at list prices",
            column_config={
                "prompt": st.column_config.NumberColumn("prompt, $/M", format="%,.3f", width=90),
                "cached_prompt": st.column_config.NumberColumn("cached, $/M", format="%,.3f", width=90),
                "completion": st.column_config.NumberColumn("completion, $/M", format="%,.3f", width=110),
                "cost": st.column_config.NumberColumn("cost, $", format="%,.4f", width=80),
            },
        )
        st.caption("List prices come from the installed MLflow, in US dollars per million tokens (M).")
        off = not permissions.may("administer")
        with actions.popover("Your prices", "prices", icon=":material/edit:", disabled=off):
            _edit_prices(own)


def _edit_prices(own: dict[str, Price]) -> None:
    st.caption("Your cost per million tokens in US dollars: machines, power, a contract.")
    known = {name: own.get(name, Price()) for name in SERVED}
    rows = pd.DataFrame(
        [[name, price.prompt, price.cached_prompt, price.completion] for name, price in known.items()],
        columns=["wrapper", "prompt", "cached_prompt", "completion"],
    )
    number = st.column_config.NumberColumn(min_value=0.0, max_value=1e6, step=0.001, required=True)
    edited = st.data_editor(
        rows,
        hide_index=True,
        disabled=["wrapper"],
        key="usage_own_prices",
        alt="Your prices by wrapper",
        column_config={"prompt": number, "cached_prompt": number, "completion": number},
    )
    off = not permissions.may("administer")
    if st.button(theme.on_primary("Save", off=off), type="primary", key="usage_save_prices", disabled=off):
        given = {
            row["wrapper"]: Price(row["prompt"], row["completion"], row["cached_prompt"])
            for row in edited.to_dict("records")
        }
        actions.attempt(partial(prices.save, resources.actor(), resources.settings(), given), "Your prices are saved.")
        st.rerun()


def show_turns(turns: pd.DataFrame) -> None:
    """The turns themselves, and as files."""
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown("**Turns**", width="stretch")
            for label, ending, mime, make in _FILES:
                st.download_button(
                    label,
                    partial(make, turns),  # only made when it is asked for
                    file_name=f"phi3kit-usage.{ending}",
                    mime=mime,
                    icon=":material/download:",
                    on_click="ignore",
                    key=f"usage_download_{ending}",
                    help="All turns that match the filters, with every column. Times are in UTC.",
                )
        turn_drawer.show_table(turns, "usage_turns", "Turns that match the filters")
