//! An expression on its way from text to a bool or to texts: parsed, bounded, checked for names, made ready, evaluated.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, LazyLock},
};

use cel::{
    Context, Env, Value,
    common::{
        ast::{Expr, IdedExpr, LiteralValue, operators as ops},
        types::CelBool,
        value::CowVal,
    },
};

use super::{
    checker::Checker,
    cost::{self, Budget},
    pattern::{self, Pattern},
    scope::{Budgeted, Scope, Texts, texts_of},
    vocabulary::{CALLER_SENDS, Vocabulary},
};

/// How long an expression may be.
pub const MAX_EXPRESSION_BYTES: usize = 1024;
/// How deep its parts may nest, so that neither parser nor evaluation runs out of stack.
pub(super) const MAX_DEPTH: usize = 32;
/// The parser counts some levels that leave no node.
const MAX_PARSER_DEPTH: u16 = 64;

/// The present time as NumericDate seconds; `now` where it meets a number becomes this. Nobody can write the name.
pub(super) const NOW_SECONDS: &str = "@now_seconds";

/// Why an expression is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpressionError {
    /// Over [`MAX_EXPRESSION_BYTES`].
    #[error("the expression is {0} bytes long; at most {MAX_EXPRESSION_BYTES} are allowed")]
    TooLong(usize),
    /// Not CEL.
    #[error("not a CEL expression: {0}")]
    Syntax(String),
    /// A bound on size or cost.
    #[error("the expression is too large: {0}")]
    TooComplex(&'static str),
    /// A variable, field or function that doesn't exist.
    #[error("{0}")]
    UnknownName(String),
    /// Something that CEL has and we don't take.
    #[error("{0}")]
    Unsupported(String),
    /// Its value can't be what it is wanted for.
    #[error("{0}")]
    WrongResult(&'static str),
}

/// A compiled expression.
#[derive(Debug)]
pub struct Expression {
    root: IdedExpr,
    /// What the caller must send for it to be evaluated, as far as it is looked at.
    needs: Vec<&'static str>,
    patterns: Vec<Pattern>,
    has_loops: bool,
    /// How many times as large as the input a value that it makes can be.
    growth: u64,
}

static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut env = Env::stdlib();
    cost::declare(&mut env).and_then(|()| pattern::declare(&mut env)).expect("names that the standard library doesn't use");
    Arc::new(env)
});

impl Expression {
    /// Compiles an expression; everything that can be known before it is evaluated is checked.
    pub fn compile(text: &str, vocabulary: Vocabulary) -> Result<Self, ExpressionError> {
        if text.len() > MAX_EXPRESSION_BYTES {
            return Err(ExpressionError::TooLong(text.len()));
        }
        let mut root = parse(text)?;
        let mut checker = Checker::new(vocabulary);
        checker.check(&mut root, 0)?;
        if vocabulary == Vocabulary::Rule && !may_be_bool(&root.expr) {
            return Err(ExpressionError::WrongResult("a rule must be true or false; compare the value with something"));
        }
        let growth = 1u64.checked_shl(checker.additions).unwrap_or(u64::MAX).saturating_mul(checker.literal_growth);
        let mut needs = checker.needs;
        needs.sort_by_key(|name| CALLER_SENDS.iter().position(|(_, _, path)| path == name));
        needs.dedup();
        Ok(Self { root, needs, patterns: checker.patterns, has_loops: checker.loops > 0, growth })
    }

    /// What the caller must send for the expression to be evaluated, as far as it comes to that: `request.method` and so on.
    pub fn needs(&self) -> &[&'static str] {
        &self.needs
    }

    /// Whether it is true; `None` when it can't be evaluated or is no boolean.
    pub(super) fn holds(&self, scope: &(impl Scope + Send)) -> Option<bool> {
        self.evaluate(scope, |value| value.downcast_ref::<CelBool>().map(|b| *b.inner()))
    }

    /// The strings that it yields; `None` when it can't be evaluated or yields anything else.
    pub(crate) fn texts(&self, scope: &(impl Scope + Send)) -> Option<Texts> {
        self.evaluate(scope, |value| texts_of(&**value))
    }

    fn evaluate<T>(&self, scope: &(impl Scope + Send), read: impl FnOnce(&CowVal<'_, '_>) -> Option<T>) -> Option<T> {
        let input_bytes = if self.has_loops { scope.input_bytes() + MAX_EXPRESSION_BYTES as u64 } else { 0 };
        let resolver = Budgeted { scope, patterns: &self.patterns, budget: Budget::new(input_bytes, self.growth) };
        // A fault of the evaluator on one input must deny this request, not end the process.
        let value = catch_unwind(AssertUnwindSafe(|| {
            let mut context = Context::with_env(Arc::clone(&ENV));
            context.set_variable_resolver(&resolver);
            Value::resolve_val(&self.root, &context).ok().and_then(|value| read(&value))
        }));
        value.ok().flatten().filter(|_| !resolver.budget.exhausted())
    }
}

fn parse(text: &str) -> Result<IdedExpr, ExpressionError> {
    if nesting_of(text) > MAX_DEPTH {
        return Err(ExpressionError::TooComplex("its parentheses nest too deep"));
    }
    let parser = ENV.parser().max_recursion_depth(MAX_PARSER_DEPTH).error_recovery_limit(4);
    match catch_unwind(AssertUnwindSafe(|| parser.parse(text))) {
        Ok(Ok(root)) => Ok(root),
        Ok(Err(errors)) => {
            let words: Vec<String> = errors.errors.iter().map(describe).collect();
            Err(ExpressionError::Syntax(words.join("; ")))
        }
        Err(_) => Err(ExpressionError::Syntax("the parser gave up on it".into())),
    }
}

fn describe(error: &cel::ParseError) -> String {
    let (line, column) = error.pos;
    if line > 0 { format!("line {line}, column {column}: {}", error.msg) } else { error.msg.clone() }
}

/// How deep brackets nest, strings included: an upper bound that needs no parser.
fn nesting_of(text: &str) -> usize {
    let mut open = 0usize;
    let mut deepest = 0;
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => {
                open += 1;
                deepest = deepest.max(open);
            }
            b')' | b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Whether an expression's value can be a boolean, as far as its shape tells.
fn may_be_bool(expr: &Expr) -> bool {
    match expr {
        Expr::Literal(LiteralValue::Boolean(_)) | Expr::Select(_) | Expr::Comprehension(_) => true,
        Expr::Literal(_) | Expr::List(_) | Expr::Map(_) | Expr::Struct(_) | Expr::Ident(_) | Expr::Unspecified => false,
        Expr::Call(call) => match call.func_name.as_str() {
            ops::CONDITIONAL => call.args.iter().skip(1).all(|arm| may_be_bool(&arm.expr)),
            ops::ADD
            | ops::SUBSTRACT
            | ops::MULTIPLY
            | ops::DIVIDE
            | ops::MODULO
            | ops::NEGATE
            | "size"
            | "string"
            | "int"
            | "uint"
            | "double"
            | "bytes"
            | "timestamp"
            | "duration"
            | "type" => false,
            _ => true,
        },
    }
}
