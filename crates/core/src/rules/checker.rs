//! What can be known of an expression before it is evaluated: bounds, names, cost; and what makes it ready for evaluation.

use cel::common::{
    ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators as ops},
    types::CelInt,
};

use super::{
    cost::{BUDGET, CHARGE},
    expression::{ExpressionError, MAX_DEPTH, NOW_SECONDS},
    pattern::{self, Pattern},
    vocabulary::{self, CALLER_SENDS, Vocabulary},
};

/// How many loops (`all`, `exists`, `map`, …) it may have, and how deep they may nest.
const MAX_LOOPS: usize = 8;
const MAX_LOOP_DEPTH: usize = 2;
/// How many `+` it may have: each can double a value.
const MAX_ADDITIONS: u32 = 32;

/// Walks an expression once: checks bounds and names, counts what it may cost, and makes it ready for evaluation.
pub(super) struct Checker {
    vocabulary: Vocabulary,
    /// Names that loops around the present place bind.
    bound: Vec<String>,
    pub(super) loops: usize,
    loop_depth: usize,
    /// Inside the value that a `map` yields, or a literal: no list may be made by a loop there, or sizes would multiply.
    in_value: bool,
    pub(super) additions: u32,
    pub(super) literal_growth: u64,
    pub(super) patterns: Vec<Pattern>,
    pub(super) needs: Vec<&'static str>,
}

impl Checker {
    pub(super) fn new(vocabulary: Vocabulary) -> Self {
        Self {
            vocabulary,
            bound: Vec::new(),
            loops: 0,
            loop_depth: 0,
            in_value: false,
            additions: 0,
            literal_growth: 1,
            patterns: Vec::new(),
            needs: Vec::new(),
        }
    }

    pub(super) fn check(&mut self, node: &mut IdedExpr, depth: usize) -> Result<(), ExpressionError> {
        if depth > MAX_DEPTH {
            return Err(ExpressionError::TooComplex("its parts nest too deep"));
        }
        match &mut node.expr {
            Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => self.check_name(name),
            Expr::Select(select) => {
                if let Expr::Ident(variable) = &select.operand.expr {
                    self.check_field(variable, &select.field, select.test)?;
                }
                self.check(&mut select.operand, depth + 1)
            }
            Expr::Call(call) => self.check_call(call, depth),
            Expr::List(list) => {
                self.grow(list.elements.len());
                self.within_value(|this| list.elements.iter_mut().try_for_each(|e| this.check(e, depth + 1)))
            }
            Expr::Map(map) => {
                self.grow(map.entries.len() * 2);
                self.within_value(|this| {
                    map.entries.iter_mut().try_for_each(|entry| match &mut entry.expr {
                        EntryExpr::MapEntry(e) => {
                            this.check(&mut e.key, depth + 1)?;
                            this.check(&mut e.value, depth + 1)
                        }
                        EntryExpr::StructField(_) => Err(ExpressionError::Syntax("a field where a key belongs".into())),
                    })
                })
            }
            Expr::Comprehension(comprehension) => self.check_loop(comprehension, depth),
            Expr::Struct(message) => {
                Err(ExpressionError::Unsupported(format!("there is no type {:?} to construct", message.type_name)))
            }
            Expr::Unspecified => Err(ExpressionError::Syntax("a part of it is empty".into())),
        }
    }

    fn check_name(&self, name: &str) -> Result<(), ExpressionError> {
        if self.is_bound(name) || self.vocabulary.knows_name(name) {
            return Ok(());
        }
        let known = self.vocabulary.variables();
        let hint = match vocabulary::closest(name, known.iter().copied()) {
            Some(close) => format!("did you mean {close:?}?"),
            None => format!("there are {}", known.join(", ")),
        };
        Err(ExpressionError::UnknownName(format!("there is no variable {name:?}; {hint}")))
    }

    fn is_bound(&self, name: &str) -> bool {
        name.starts_with('@') || self.bound.iter().any(|bound| bound == name)
    }

    /// `request.…` and `client.…` have known fields; outside `has()` the expression needs them.
    fn check_field(&mut self, variable: &str, field: &str, is_test: bool) -> Result<(), ExpressionError> {
        if self.vocabulary != Vocabulary::Rule || self.is_bound(variable) {
            return Ok(());
        }
        let Some(fields) = vocabulary::fields_of(variable) else { return Ok(()) };
        match CALLER_SENDS.iter().find(|(v, f, _)| *v == variable && *f == field) {
            Some((_, _, path)) => {
                if !is_test {
                    self.needs.push(path);
                }
                Ok(())
            }
            None => Err(ExpressionError::UnknownName(format!(
                "{variable:?} has no field {field:?}; it has {}",
                fields.join(", ")
            ))),
        }
    }

    fn check_call(&mut self, call: &mut CallExpr, depth: usize) -> Result<(), ExpressionError> {
        let name = call.func_name.as_str();
        if !vocabulary::knows_function(name) {
            let hint = vocabulary::closest_function(name).map(|close| format!("; did you mean {close:?}?"));
            let message = format!("there is no function {name:?}{}", hint.unwrap_or_default());
            return Err(ExpressionError::UnknownName(message));
        }
        if matches!(name, "all" | "exists" | "exists_one" | "filter" | "map") {
            let message = format!("{name:?} is called on a list, as in roles.{name}(r, …)");
            return Err(ExpressionError::Unsupported(message));
        }
        if name == ops::ADD {
            self.additions += 1;
            if self.additions > MAX_ADDITIONS {
                return Err(ExpressionError::TooComplex("it has over 32 additions"));
            }
        }
        if let ("_[_]", [variable, index]) = (name, call.args.as_slice())
            && let (Expr::Ident(variable), Expr::Literal(LiteralValue::String(field))) = (&variable.expr, &index.expr)
        {
            self.check_field(variable, field.inner(), false)?;
        }
        if name == "matches" {
            pattern::compile_in(call, &mut self.patterns)?;
        }
        if self.vocabulary == Vocabulary::Rule && !self.is_bound("now") {
            time_as_number(call);
        }
        call.target.iter_mut().try_for_each(|target| self.check(target, depth + 1))?;
        call.args.iter_mut().try_for_each(|arg| self.check(arg, depth + 1))
    }

    fn check_loop(&mut self, comprehension: &mut ComprehensionExpr, depth: usize) -> Result<(), ExpressionError> {
        self.loops += 1;
        if self.loops > MAX_LOOPS {
            return Err(ExpressionError::TooComplex("it has over 8 loops"));
        }
        if self.loop_depth >= MAX_LOOP_DEPTH {
            return Err(ExpressionError::TooComplex("its loops nest deeper than two"));
        }
        let makes_list = matches!(comprehension.accu_init.expr, Expr::List(_));
        if makes_list && self.in_value {
            return Err(ExpressionError::TooComplex("a map or filter inside a list, a map or the value of a map"));
        }
        self.check(&mut comprehension.iter_range, depth + 1)?;

        let (nodes, linear) = (count(&comprehension.loop_step), count_linear(&comprehension.loop_step));
        self.bound.push(comprehension.iter_var.clone());
        self.loop_depth += 1;
        let around = std::mem::replace(&mut self.in_value, makes_list);
        let checked = self.check_body(comprehension, makes_list, depth);
        self.in_value = around;
        self.loop_depth -= 1;
        self.bound.pop();
        checked?;

        let range = std::mem::take(&mut comprehension.iter_range);
        let number = |n: usize| literal(CelInt::from(i64::try_from(n).unwrap_or(i64::MAX)));
        let charge = CallExpr {
            func_name: CHARGE.into(),
            target: None,
            args: vec![range, ident(BUDGET), number(nodes), number(linear)],
        };
        comprehension.iter_range = IdedExpr { id: 0, expr: Expr::Call(charge) };
        Ok(())
    }

    /// The loop's own scaffolding is not the author's: its accumulator is neither a literal nor an addition that grows.
    fn check_body(
        &mut self,
        comprehension: &mut ComprehensionExpr,
        makes_list: bool,
        depth: usize,
    ) -> Result<(), ExpressionError> {
        if !makes_list {
            return self.check(&mut comprehension.loop_step, depth + 1);
        }
        let odd = || ExpressionError::Unsupported("this form of map or filter is not supported".into());
        match &mut comprehension.loop_step.expr {
            Expr::Call(call) if call.func_name == ops::CONDITIONAL => match call.args.as_mut_slice() {
                [guard, step, _] => {
                    self.check(guard, depth + 1)?;
                    self.check(appended(step).ok_or_else(odd)?, depth + 1)
                }
                _ => Err(odd()),
            },
            _ => self.check(appended(&mut comprehension.loop_step).ok_or_else(odd)?, depth + 1),
        }
    }

    fn within_value<T>(&mut self, check: impl FnOnce(&mut Self) -> T) -> T {
        let around = std::mem::replace(&mut self.in_value, true);
        let result = check(self);
        self.in_value = around;
        result
    }

    fn grow(&mut self, elements: usize) {
        self.literal_growth = self.literal_growth.saturating_mul(elements.max(1) as u64);
    }
}

/// What the step of a `map` or `filter` appends: `@result + [this]`.
fn appended(step: &mut IdedExpr) -> Option<&mut IdedExpr> {
    match &mut step.expr {
        Expr::Call(call) if call.func_name == ops::ADD => match call.args.as_mut_slice() {
            [_, IdedExpr { expr: Expr::List(list), .. }] => list.elements.first_mut(),
            _ => None,
        },
        _ => None,
    }
}

/// `now` is a timestamp; where it meets a number (`claims.exp - now < 300`) it is NumericDate seconds, as in tokens.
fn time_as_number(call: &mut CallExpr) {
    let meets = [
        ops::ADD,
        ops::SUBSTRACT,
        ops::EQUALS,
        ops::NOT_EQUALS,
        ops::LESS,
        ops::LESS_EQUALS,
        ops::GREATER,
        ops::GREATER_EQUALS,
    ];
    if !meets.contains(&call.func_name.as_str()) || call.args.iter().any(|arg| is_time(&arg.expr)) {
        return;
    }
    for arg in &mut call.args {
        if matches!(&arg.expr, Expr::Ident(name) if name == "now") {
            arg.expr = Expr::Ident(NOW_SECONDS.into());
        }
    }
}

/// Whether an expression is plainly a timestamp or a duration.
fn is_time(expr: &Expr) -> bool {
    match expr {
        Expr::Call(call) => match call.func_name.as_str() {
            "timestamp" | "duration" => true,
            ops::ADD | ops::SUBSTRACT => call.args.iter().any(|arg| is_time(&arg.expr)),
            ops::CONDITIONAL => call.args.iter().skip(1).any(|arg| is_time(&arg.expr)),
            _ => false,
        },
        _ => false,
    }
}

/// How many parts an expression has, inner loops apart: they are charged for by themselves.
fn count(node: &IdedExpr) -> usize {
    1 + children(node).into_iter().map(count).sum::<usize>()
}

/// How many of them may touch a whole value: names (copied where they are kept), comparisons, calls.
fn count_linear(node: &IdedExpr) -> usize {
    let own = match &node.expr {
        Expr::Call(call) => {
            let constant = [ops::LOGICAL_AND, ops::LOGICAL_OR, ops::LOGICAL_NOT, ops::CONDITIONAL, ops::NOT_STRICTLY_FALSE];
            usize::from(!constant.contains(&call.func_name.as_str()))
        }
        Expr::List(_) | Expr::Map(_) => 1,
        Expr::Ident(name) if name == "claims" || name == "request" || name == "client" => 1,
        _ => 0,
    };
    own + children(node).into_iter().map(count_linear).sum::<usize>()
}

fn children(node: &IdedExpr) -> Vec<&IdedExpr> {
    match &node.expr {
        Expr::Call(call) => call.target.as_deref().into_iter().chain(&call.args).collect(),
        Expr::Select(select) => vec![&*select.operand],
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Map(map) => map
            .entries
            .iter()
            .flat_map(|entry| match &entry.expr {
                EntryExpr::MapEntry(e) => vec![&e.key, &e.value],
                EntryExpr::StructField(e) => vec![&e.value],
            })
            .collect(),
        Expr::Comprehension(inner) => vec![&inner.iter_range],
        Expr::Struct(_) | Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => Vec::new(),
    }
}

fn ident(name: &str) -> IdedExpr {
    IdedExpr { id: 0, expr: Expr::Ident(name.into()) }
}

fn literal(value: CelInt) -> IdedExpr {
    IdedExpr { id: 0, expr: Expr::Literal(LiteralValue::Int(value)) }
}
