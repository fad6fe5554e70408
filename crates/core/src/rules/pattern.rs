//! `matches`: regular expressions, compiled once with the expression that holds them.

use std::any::Any;

use cel::{
    DeclarationError, Env, ExecutionError,
    common::{
        ast::{CallExpr, Expr, IdedExpr, LiteralValue},
        types::{self, CelBool, CelString, Type},
        value::{CowVal, StaticVal, Val},
    },
};
use regex::{Regex, RegexBuilder};

use super::{
    cost::{BUDGET, BUDGET_TYPE, Budget},
    expression::ExpressionError,
};

/// The function that replaces `matches`: `(text, pattern, budget) -> bool`.
const MATCHES: &str = "@matches";
/// The variables that hold patterns are this and a number. Nobody can write their names.
const PREFIX: &str = "@pattern";
/// How much memory a compiled pattern may take: each gets the first of these that it fits into.
const PATTERN_BYTES: [usize; 5] = [1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10];
/// About how much of that one state takes.
const BYTES_PER_STATE: usize = 32;
/// How much memory a search may use to go faster.
const SEARCH_BYTES: usize = 256 << 10;

static PATTERN_TYPE: Type = Type::new_unspecified_type("countersign.pattern");

/// A compiled regular expression, as a value.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    regex: Regex,
    /// At most about how many states a search is in at once: what a byte of text can cost.
    states: u64,
}

impl Val for Pattern {
    fn get_type(&self) -> &Type {
        &PATTERN_TYPE
    }

    fn cel_type() -> &'static Type {
        &PATTERN_TYPE
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        Box::new(self.clone())
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl StaticVal for Pattern {}

/// Declares [`MATCHES`].
pub(super) fn declare(env: &mut Env) -> Result<(), DeclarationError> {
    let arguments = vec![types::STRING_TYPE, PATTERN_TYPE.to_owned(), BUDGET_TYPE.to_owned()];
    env.add_overload(MATCHES, "countersign_matches", arguments, matches)
}

#[expect(clippy::needless_pass_by_value, reason = "the signature of functions in the evaluator")]
fn matches<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let (text, pattern) = (args[0].downcast_ref::<CelString>(), args[1].downcast_ref::<Pattern>());
    match (text, pattern, args[2].downcast_ref::<Budget>()) {
        (Some(text), Some(pattern), Some(budget)) => {
            budget.spend_steps(text.inner().len(), pattern.states)?;
            Ok(CowVal::owned(CelBool::from(pattern.regex.is_match(text.inner()))))
        }
        _ => Err(ExecutionError::function_error("matches", "called on something that is no string")),
    }
}

/// The pattern that a variable holds.
pub(super) fn named<'p>(patterns: &'p [Pattern], variable: &str) -> Option<&'p Pattern> {
    patterns.get(variable.strip_prefix(PREFIX)?.parse::<usize>().ok()?)
}

/// Turns `text.matches('…')` or `matches(text, '…')` into a call with the compiled pattern, which joins the others.
pub(super) fn compile_in(call: &mut CallExpr, patterns: &mut Vec<Pattern>) -> Result<(), ExpressionError> {
    let target = call.target.take().map(|target| *target);
    let mut arguments = target.into_iter().chain(std::mem::take(&mut call.args));
    let (Some(text), Some(pattern), None) = (arguments.next(), arguments.next(), arguments.next()) else {
        return Err(ExpressionError::Unsupported("matches takes one pattern, as in request.path.matches('^/a')".into()));
    };
    let Expr::Literal(LiteralValue::String(pattern)) = &pattern.expr else {
        return Err(ExpressionError::Unsupported("the pattern of matches must be a literal string".into()));
    };
    let compiled = compile(pattern.inner()).map_err(|error| {
        ExpressionError::Unsupported(format!("the pattern of matches is refused: {}", first_line(&error)))
    })?;
    let name = format!("{PREFIX}{}", patterns.len());
    patterns.push(compiled);
    let ident = |name: String| IdedExpr { id: 0, expr: Expr::Ident(name) };
    let args = vec![text, ident(name), ident(BUDGET.into())];
    *call = CallExpr { func_name: MATCHES.into(), target: None, args };
    Ok(())
}

/// Compiles a pattern within the smallest bound that it fits into, which tells what it can cost.
fn compile(pattern: &str) -> Result<Pattern, regex::Error> {
    let mut too_big = regex::Error::CompiledTooBig(0);
    for bytes in PATTERN_BYTES {
        match RegexBuilder::new(pattern).size_limit(bytes).dfa_size_limit(SEARCH_BYTES).build() {
            Ok(regex) => return Ok(Pattern { regex, states: (bytes / BYTES_PER_STATE) as u64 }),
            Err(error @ regex::Error::CompiledTooBig(_)) => too_big = error,
            Err(error) => return Err(error),
        }
    }
    Err(too_big)
}

/// The parser of patterns draws pictures over several lines; the last one says what is wrong.
fn first_line(error: &regex::Error) -> String {
    let text = error.to_string();
    text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
}
