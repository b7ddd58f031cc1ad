"""How good the texts of a model are in the eyes of others: a GPT judge (section V-B) and people (section V-G).

    candidates = read_candidates(["runs/quickstart"], which="both", references=None, note=print)

In the order to read:

1. `candidates.py`: what is rated, found by id: a continuation with its prompt and its reference.
2. The judge (`icu-ray judge`). `judge.py` asks about every candidate and writes judge.jsonl; `judge_prompt.py` is what
   it is told and how its score is read; `judge_client.py` speaks to the endpoint; `judge_answers.py` keeps each answer
   that was paid for.
3. People (`icu-ray human`). `human_sheets.py` writes blinded sheets and pages (`human_page.html`); `human.py` takes
   the ratings that come back, and compares raters with each other and with the judge.

Nothing here runs a model, and no command but these two comes here. The package must not know Ray or a sweep's driver.
"""
