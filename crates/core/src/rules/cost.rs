//! A bound on what an evaluation may cost, so that no policy and no token can keep a verifier busy.
//!
//! An expression without loops costs at most its length times the size of what it sees, both bounded. Each loop is charged
//! before it runs: its length times the nodes of its body, plus, for each operation in the body that may touch whole values,
//! their size. What it would cost to go on when the budget is spent is an error, and an error denies.

use std::{
    any::Any,
    sync::atomic::{AtomicU64, Ordering},
};

use cel::{
    DeclarationError, Env, ExecutionError,
    common::{
        types::{self, CelInt, Type},
        value::{CowVal, StaticVal, Val},
    },
};
use serde_json::{Map, Value};

/// The function that charges for a loop: `(range, budget, nodes, linear operations) -> range`.
pub(super) const CHARGE: &str = "@charge";
/// The variable that holds the budget. Like the function's, nobody can write its name.
pub(super) const BUDGET: &str = "@budget";

/// Units per evaluation. A unit is about what one operation on a small value costs; all of them are some ten milliseconds.
const UNITS: u64 = 1_000_000;
/// Steps of regular expressions per evaluation: a step is one byte of text and one state of a pattern. What a pattern costs in
/// practice is far below that, but texts and patterns exist that need them all, some tenth of a second.
const STEPS: u64 = 8_000_000;
/// How many bytes of a value one unit pays for.
const BYTES_PER_UNIT: u64 = 64;

pub(super) static BUDGET_TYPE: Type = Type::new_unspecified_type("countersign.budget");

/// What is left to spend in one evaluation.
#[derive(Debug)]
pub(super) struct Budget {
    left: AtomicU64,
    steps: AtomicU64,
    /// What it costs to touch the largest value that the expression can make.
    largest_value: u64,
}

impl Budget {
    /// A full budget, for an expression that sees `input_bytes` and can make values at most `growth` times as large.
    pub(super) fn new(input_bytes: u64, growth: u64) -> Self {
        Self {
            left: AtomicU64::new(UNITS),
            steps: AtomicU64::new(STEPS),
            largest_value: input_bytes.saturating_mul(growth) / BYTES_PER_UNIT + 1,
        }
    }

    /// Whether something was refused for its cost.
    pub(super) fn exhausted(&self) -> bool {
        self.left.load(Ordering::Relaxed) == 0 || self.steps.load(Ordering::Relaxed) == 0
    }

    fn spend(&self, items: u64, nodes: u64, linear: u64) -> Result<(), ExecutionError> {
        let per_item = linear.saturating_mul(self.largest_value).saturating_add(nodes);
        let cost = items.saturating_mul(per_item).saturating_add(nodes);
        take(&self.left, cost)
    }

    /// Pays for a search of `bytes` of text with a pattern of `states`.
    pub(super) fn spend_steps(&self, bytes: usize, states: u64) -> Result<(), ExecutionError> {
        take(&self.steps, states.saturating_mul(bytes as u64))
    }
}

fn take(from: &AtomicU64, cost: u64) -> Result<(), ExecutionError> {
    let left = from.load(Ordering::Relaxed).checked_sub(cost).filter(|left| *left > 0);
    from.store(left.unwrap_or(0), Ordering::Relaxed);
    match left {
        Some(_) => Ok(()),
        None => Err(ExecutionError::function_error(CHARGE, "the expression costs too much on this input")),
    }
}

impl Val for Budget {
    fn get_type(&self) -> &Type {
        &BUDGET_TYPE
    }

    fn cel_type() -> &'static Type {
        &BUDGET_TYPE
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        let copy = |of: &AtomicU64| AtomicU64::new(of.load(Ordering::Relaxed));
        Box::new(Self { left: copy(&self.left), steps: copy(&self.steps), largest_value: self.largest_value })
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl StaticVal for Budget {}

/// Declares [`CHARGE`].
pub(super) fn declare(env: &mut Env) -> Result<(), DeclarationError> {
    let arguments = vec![types::DYN_TYPE, BUDGET_TYPE.to_owned(), types::INT_TYPE, types::INT_TYPE];
    env.add_overload(CHARGE, "countersign_charge", arguments, charge)
}

fn charge<'b, 'v>(mut args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let number = |val: &CowVal<'b, 'v>| val.downcast_ref::<CelInt>().and_then(|i| u64::try_from(*i.inner()).ok());
    // What has no size has no elements either: the loop itself says so.
    let items = args[0].as_sizer().map_or(0, |sizer| u64::try_from(*sizer.size().inner()).unwrap_or(u64::MAX));
    match (args[1].downcast_ref::<Budget>(), number(&args[2]), number(&args[3])) {
        (Some(budget), Some(nodes), Some(linear)) => budget.spend(items, nodes, linear)?,
        _ => return Err(ExecutionError::function_error(CHARGE, "called without a budget")),
    }
    Ok(args.swap_remove(0))
}

/// About how many bytes claims take as values.
pub(super) fn size_of_claims(claims: &Map<String, Value>) -> u64 {
    claims.iter().map(|(name, value)| name.len() as u64 + size_of(value)).sum()
}

fn size_of(value: &Value) -> u64 {
    /// What a value without content takes.
    const BARE: u64 = 32;
    BARE + match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.len() as u64,
        Value::Array(items) => items.iter().map(size_of).sum(),
        Value::Object(members) => size_of_claims(members),
    }
}
