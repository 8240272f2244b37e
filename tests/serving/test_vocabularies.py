"""Vocabularies are read as NVTabular wrote them; what cannot be compiled is refused."""

from __future__ import annotations

import pandas as pd
import pytest

from twotower.serving.runtime.errors import ServingError


@pytest.mark.parametrize(
    "option, message",
    [
        ({"num_buckets": 2, "max_size": 4}, "num_buckets"),
        ({"single_table": True}, "single_table"),
        ({"lambda": True}, "passes 'Age!' through UDF"),
        ({"joint": True}, "shared by several columns"),
        ({"raw": True}, "passes 'Age!' through nothing"),
        ({"null": True}, "passes 'Age!' through Normalize, the compiled"),
        ({"filled first": True}, "passes 'Age!' through FillMissing >> Normalize"),
        ({"filled with": True}, r"FillMissing of 'Age!' can only be compiled as FillMissing\(0\)"),
        ({"scaled": True}, "passes 'Age!' through NormalizeMinMax"),
    ],
)
def test_a_workflow_that_cannot_be_compiled_is_refused(option, message, tmp_path):
    import nvtabular as nvt
    from nvtabular import ops

    from twotower.serving.operators.encode_features import EncodeFeatures

    frame = pd.DataFrame({"city": ["a", "b"], "age": [1, 2]})
    graph = {
        "lambda": lambda: ["age"] >> ops.LambdaOp(lambda age: age + 1),
        "joint": lambda: [["city", "age"]] >> ops.Categorify(out_path=str(tmp_path)),
        "null": lambda: ["age"] >> ops.Normalize(),
        "filled first": lambda: ["age"] >> ops.FillMissing(0) >> ops.Normalize(),
        "filled with": lambda: ["age"] >> ops.Normalize() >> ops.FillMissing(1),
        "scaled": lambda: ["age"] >> ops.NormalizeMinMax(),
        "raw": lambda: (["city"] >> ops.Categorify(out_path=str(tmp_path))) + ["age"],
    }.get(next(iter(option)))
    if graph is None:
        graph = lambda: ["city"] >> ops.Categorify(out_path=str(tmp_path), **option)  # noqa: E731
    if "joint" in option:
        frame["age"] = frame["age"].astype(str)
    workflow = nvt.Workflow(graph())
    workflow.fit(nvt.Dataset(frame))
    with pytest.raises(ServingError, match=message):
        EncodeFeatures(workflow, {"age": "Age!"}).compile(tmp_path, None)


@pytest.mark.parametrize("cut", [None, (0,), (1, 3), (-2,), (5000,)])
def test_a_list_of_which_others_than_the_first_values_are_read_is_refused(cut, tmp_path):
    import nvtabular as nvt
    from nvtabular import ops

    from twotower.serving.vocabularies import list_lengths

    encoded = ["tags"] >> ops.Categorify(out_path=str(tmp_path))
    workflow = nvt.Workflow(encoded if cut is None else encoded >> ops.ListSlice(*cut))
    workflow.fit(nvt.Dataset(pd.DataFrame({"tags": [["a"], ["b", "a"]]})))
    message = r"must cut 'Tags!', a list, by one ListSlice\(0, n\), n from 1 to 4096"
    with pytest.raises(ServingError, match=message):
        list_lengths(workflow, {"tags": "Tags!"})


def test_a_vocabulary_of_another_kind_than_the_user_table_is_refused(tmp_path):
    from twotower.serving.vocabularies import read_vocabulary

    path = tmp_path / "unique.age.parquet"
    pd.DataFrame({"age": ["18", "25"]}, index=[3, 4]).to_parquet(path)
    with pytest.raises(
        ServingError, match="of 'Age!' is object, but in the user table it is a number"
    ):
        read_vocabulary("age", path, is_text=False, names={"age": "Age!"})
    assert read_vocabulary("age", path, is_text=True)[0].tolist() == ["18", "25"]


@pytest.mark.parametrize("dtype", ["int64", "Int64", "float32", "float64"])
def test_numbers_are_sorted_beside_their_codes(dtype, tmp_path):
    from twotower.serving.vocabularies import read_vocabulary

    path = tmp_path / "unique.age.parquet"
    pd.DataFrame({"age": pd.array([25, -1, 18], dtype)}, index=[3, 4, 5]).to_parquet(path)
    keys, codes = read_vocabulary("age", path, is_text=False)
    assert keys.tolist() == [-1, 18, 25]
    assert codes.tolist() == [4, 5, 3]
    assert keys.dtype == dtype.lower()


def test_a_column_without_a_value_has_an_empty_vocabulary(tmp_path):
    from twotower.serving.vocabularies import read_vocabulary

    path = tmp_path / "unique.age.parquet"
    pd.DataFrame({"age": pd.Series([], dtype=object)}).to_parquet(path)
    for is_text in (True, False):
        keys, codes = read_vocabulary("age", path, is_text)
        assert (len(keys), len(codes), keys.dtype == object) == (0, 0, is_text)


def test_narrow_integers_would_wrap_huge_ids_and_are_refused(tmp_path):
    from twotower.serving.vocabularies import read_vocabulary

    path = tmp_path / "unique.user_id.parquet"
    pd.DataFrame({"user_id": pd.Series([5], [3], "int32")}).to_parquet(path)
    with pytest.raises(ServingError, match="the vocabulary of 'user_id' is int32"):
        read_vocabulary("user_id", path, is_text=False)
