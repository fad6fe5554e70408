//! Settings that may be absent, and what they then are: each default stands once, beside its field.
//!
//! `settings!` makes two types of one list of fields: the one that a policy's author writes (`Tokens`, where all that has a
//! default is an `Option`) and the one that the rest of the code reads (`EffectiveTokens`, where it is not).

use std::collections::BTreeMap;

/// From what was written to what holds.
pub trait Resolve {
    /// With every default filled in.
    type Effective;

    /// Fills in the defaults.
    fn resolve(&self) -> Self::Effective;
}

/// Values without parts that have defaults.
macro_rules! plain {
    ($($plain:ty),* $(,)?) => {
        $(impl $crate::settings::Resolve for $plain {
            type Effective = Self;

            fn resolve(&self) -> Self {
                self.clone()
            }
        })*
    };
}
pub(crate) use plain;

plain!(String, bool, u32, f64, serde_json::Value, BTreeMap<String, String>);

impl<T: Resolve> Resolve for Vec<T> {
    type Effective = Vec<T::Effective>;

    fn resolve(&self) -> Self::Effective {
        self.iter().map(Resolve::resolve).collect()
    }
}

impl<T: Resolve> Resolve for Option<T> {
    type Effective = Option<T::Effective>;

    fn resolve(&self) -> Self::Effective {
        self.as_ref().map(Resolve::resolve)
    }
}

macro_rules! settings {
    (
        $(#[doc = $doc:literal])*
        $(#[kube($($kube:tt)*)])*
        $raw:ident => $effective:ident {
            $(required {
                $($(#[doc = $rdoc:literal])* $(#[schemars($($rs:tt)*)])* $rname:ident $(as $rwire:literal)?: $rty:ty,)*
            })?
            $(optional {
                $($(#[doc = $odoc:literal])* $(#[schemars($($os:tt)*)])* $oname:ident $(as $owire:literal)?: $oty:ty,)*
            })?
            $(defaulted {
                $(
                    $(#[doc = $ddoc:literal])* $(#[schemars($($ds:tt)*)])*
                    $dname:ident $(as $dwire:literal)?: $dty:ty = $default:expr,
                )*
            })?
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        #[serde(rename_all = "camelCase")]
        $(#[derive(kube::CustomResource)] #[kube($($kube)*)])*
        pub struct $raw {
            $($(
                $(#[doc = $rdoc])*
                $(#[schemars($($rs)*)])*
                $(#[serde(rename = $rwire)])?
                pub $rname: $rty,
            )*)?
            $($(
                $(#[doc = $odoc])*
                $(#[schemars($($os)*)])*
                #[serde(default, skip_serializing_if = "Option::is_none" $(, rename = $owire)?)]
                pub $oname: Option<$oty>,
            )*)?
            $($(
                $(#[doc = $ddoc])*
                $(#[schemars($($ds)*)])*
                #[serde(default, skip_serializing_if = "Option::is_none" $(, rename = $dwire)?)]
                pub $dname: Option<$dty>,
            )*)?
        }

        #[doc = concat!("[`", stringify!($raw), "`] with every default filled in.")]
        #[derive(Clone, Debug, PartialEq, serde::Serialize)]
        #[serde(rename_all = "camelCase")]
        pub struct $effective {
            $($(
                $(#[doc = $rdoc])*
                $(#[serde(rename = $rwire)])?
                pub $rname: <$rty as $crate::settings::Resolve>::Effective,
            )*)?
            $($(
                $(#[doc = $odoc])*
                #[serde(skip_serializing_if = "Option::is_none" $(, rename = $owire)?)]
                pub $oname: Option<<$oty as $crate::settings::Resolve>::Effective>,
            )*)?
            $($(
                $(#[doc = $ddoc])*
                $(#[serde(rename = $dwire)])?
                pub $dname: <$dty as $crate::settings::Resolve>::Effective,
            )*)?
        }

        impl $crate::settings::Resolve for $raw {
            type Effective = $effective;

            fn resolve(&self) -> $effective {
                $effective {
                    $($($rname: $crate::settings::Resolve::resolve(&self.$rname),)*)?
                    $($($oname: $crate::settings::Resolve::resolve(&self.$oname),)*)?
                    $($($dname: match &self.$dname {
                        Some(given) => $crate::settings::Resolve::resolve(given),
                        None => {
                            let default: $dty = $default;
                            $crate::settings::Resolve::resolve(&default)
                        }
                    },)*)?
                }
            }
        }
    };
}
pub(crate) use settings;

/// A closed set of words.
macro_rules! words {
    (
        $(#[doc = $doc:literal])*
        $name:ident { $($(#[doc = $vdoc:literal])* $variant:ident,)* }
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $($(#[doc = $vdoc])* $variant,)*
        }

        impl schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({"type": "string", "enum": [$(stringify!($variant)),*]})
            }
        }

        $crate::settings::plain!($name);
    };
}
pub(crate) use words;
