//! Wrong kernels of models, and whether they are noticed: the control of the suite of operations.
//!
//! None of them touches memory that the right one does not.

use half::bf16;
use theria_gpu_bwd::{CudaFused, CudaRef};
use theria_maml::machine::WRONG;
use theria_maml::{Gpu, Result};

use crate::phase10::machines::Named;
use crate::phase10::narrow::between_operations;
use crate::phase10::operations::{Found, Operation, judge};
use crate::phase10::updates::{Expected, IN_F64, optimisers};
use theria_tests::evidence::Row;

type Reference = Gpu<CudaRef, f64>;
type Narrow = Gpu<CudaFused, f32, bf16>;

/// Goes through the checks until one of them fails. What it was; none where all of them passed.
fn first_failure(
    named: &Named,
    (make, narrow): (impl Fn() -> Result<Reference>, impl Fn() -> Result<Narrow>),
    operations: &[(Operation, Found)],
    updates: &Expected,
) -> Result<Option<Row>> {
    let failed = |rows: Vec<Row>| rows.into_iter().find(|row| row.verdict == "failed");
    let machine = make()?;
    for one in operations.chunks(1) {
        if let Some(row) = failed(judge(named, &machine, one)) {
            return Ok(Some(row));
        }
    }
    if let Some(row) = failed(optimisers(named, Ok(machine), updates, IN_F64)) {
        return Ok(Some(row));
    }
    if let Some(row) = failed(between_operations(&Named::BF16, narrow(), true)) {
        return Ok(Some(row));
    }
    let few: Vec<_> = operations.iter().filter(|(operation, _)| operation.adds()).cloned().collect();
    Ok(failed(judge(&Named::BF16, &narrow()?, &few)))
}

/// Runs the right kernels and every wrong one; the wrong ones must fail somewhere.
pub fn noticed(
    named: &Named,
    (make, narrow): (impl Fn() -> Result<Reference>, impl Fn() -> Result<Narrow>),
    operations: &[(Operation, Found)],
    updates: &Expected,
) -> Vec<Row> {
    let mut rows = Vec::new();
    let right = first_failure(named, (&make, &narrow), operations, updates).map(|failed| {
        let found = failed.as_ref().map(|row| row.name.clone()).unwrap_or_default();
        vec![named.statement("the right kernels pass", failed.is_none(), found)]
    });
    rows.extend(named.rows("the right kernels", right));
    for (what, edit) in WRONG {
        let wrong = || make().and_then(|machine| machine.with_edit(edit));
        let wrong_narrow = || narrow().and_then(|machine| machine.with_edit(edit));
        let found = first_failure(named, (wrong, wrong_narrow), operations, updates).map(|failed| {
            // A kernel that does not compile is no wrong result.
            let holds = failed.as_ref().is_some_and(|row| !row.reason.starts_with("returned"));
            let by = failed.map_or_else(
                || "by nothing".into(),
                |row| format!("by {}, {}: {:.1e} {}", row.name, row.rule, row.error, row.reason),
            );
            vec![named.statement(format!("noticed: {what}"), holds, by)]
        });
        rows.extend(named.rows(what, found));
    }
    rows
}
